#!/usr/bin/env python3
"""What a proxy takes of memory, for docs/sizing.md: python3 benches/sizing.py target/release/ringbearer

Starts the program before an origin of its own, on loopback, once for each row, and prints a table. Bounded: some
thousand connections, half a minute. Needs Python 3 and Linux; openssl for the row with TLS."""
import asyncio, os, random, signal, socket, ssl, string, subprocess, sys, tempfile

PROGRAM = os.path.abspath(sys.argv[1])
DIRECTORY = tempfile.TemporaryDirectory()
TOKEN = "".join(random.choices(string.ascii_letters, k=880))  # the size of a usual token
KIB, MIB = 1024, 1024 * 1024


class Origin:
    """Gives every login a token of its own; answers, but holds back what is asked for under /hold."""

    def __init__(self):
        self.issued, self.held, self.release = 0, 0, asyncio.Event()

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=4096, limit=MIB * 2)
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, fields = head.split(b"\r\n", 1)
                length = [f for f in fields.split(b"\r\n") if f.lower().startswith(b"content-length:")]
                await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
                if b"/oauth/token" in line:
                    self.issued += 1
                    content = b'{"access_token":"%s%019d","token_type":"bearer","expires_in":3600}' % (
                        TOKEN.encode(), self.issued)
                else:
                    content = b"a" * KIB
                if b" /hold" in line:
                    self.held += 1
                    await self.release.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                             % len(content) + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Proxy:
    """The program with a configuration, until it is ended."""

    def __init__(self, origin, more="", identities=1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        names = "".join(f'[identity.i{n}]\njwt = "jwt-{n}"\n' for n in range(identities))
        config = os.path.join(DIRECTORY.name, f"{self.port}.toml")
        url = f"http://127.0.0.1:{origin.port}"
        with open(os.open(config, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(f'[proxy]\nlisten = "127.0.0.1:{self.port}"\nworkers = 2\nclient_idle_timeout = "10m"\n'
                       f'{more}\n[upstream]\nurl = "{url}"\nmax_connections = 10000\n[application.a]\nclient_id = "a"\n'
                       f'client_secret = "a"\ntoken_requests_per_minute = 1000\n{names}'
                       f'[store]\nmemory = true\n[log]\nfilter = "error"\n')
        self.process = subprocess.Popen([PROGRAM, "--config", config], stdin=subprocess.DEVNULL)

    async def up(self, tls=None):
        for _ in range(2000):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
                await ask(reader, writer, "/", "i0")
                return writer.close()
            except OSError:
                await asyncio.sleep(0.01)
        sys.exit("it does not start")

    def memory(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * KIB

    def end(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def ask(reader, writer, path, identity="i0", content=b"", wait=True):
    writer.write(f"{'POST' if content else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\n"
                 f"X-Ringbearer-Identity: {identity}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    await writer.drain()
    if wait:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(f for f in head.lower().split(b"\r\n") if f.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))


async def connections(proxy, count, tls, path, content=b"", wait=True):
    """That many, each with one request."""
    opened = []
    for _ in range(count):
        opened.append(await asyncio.open_connection("127.0.0.1", proxy.port, ssl=tls, limit=2 * KIB))
        await ask(*opened[-1], path, content=content, wait=wait)
    return opened


async def grown(origin, count, more="", tls=None, path="/", content=b"", wait=True):
    """Bytes for each of so many connections."""
    proxy = Proxy(origin, more)
    await proxy.up(tls)
    before, held = proxy.memory(), origin.held
    opened = await connections(proxy, count, tls, path, content, wait)
    while not wait and origin.held < held + count:
        await asyncio.sleep(0.01)
    after = proxy.memory()
    for _, writer in opened:
        writer.transport.abort()
    proxy.end()
    return (after - before) / count


async def main():
    origin = Origin()
    await origin.start()
    one, many = Proxy(origin), Proxy(origin, identities=901)
    sizes = []
    for proxy, count in ((one, 1), (many, 901)):
        await proxy.up()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for n in range(count):
            await ask(reader, writer, "/", f"i{n}")
        sizes.append(proxy.memory())
        writer.close()
        proxy.end()
    files = [os.path.join(DIRECTORY.name, name) for name in ("proxy.pem", "proxy.key")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-subj", "/CN=localhost", "-days", "1", "-out", files[0], "-keyout", files[1]],
                   check=True, stderr=subprocess.DEVNULL)
    trusting = ssl.create_default_context(cafile=files[0])
    trusting.check_hostname = False
    tables = f'[proxy.tls]\ncertificate_file = "{files[0]}"\nkey_file = "{files[1]}"'
    part, unkept = b"a" * 256 * KIB, 'max_replay_bytes = "0B"'
    hold = {"path": "/hold", "wait": False}
    rows = [
        ("the process, one identity, two workers", sizes[0], MIB),
        ("an identity, used", (sizes[1] - sizes[0]) / 900, KIB),
        ("a client connection, idle", await grown(origin, 2000), KIB),
        ("the same over TLS", await grown(origin, 2000, tables, trusting), KIB),
        ("a request under way, with both connections", await grown(origin, 500, **hold), KIB),
        ("the same with 256 KiB of content, kept for a replay", await grown(origin, 200, content=part, **hold), KIB),
        ("the same, not kept", await grown(origin, 200, unkept, content=part, **hold), KIB),
    ]
    print("| what | memory |\n|---|---|")
    for what, memory, unit in rows:
        print(f"| {what} | {memory / unit:.1f} {'MiB' if unit == MIB else 'KiB'} |", flush=True)
    # What is held back is nobody's any more.
    DIRECTORY.cleanup()
    os._exit(0)


asyncio.run(main())
