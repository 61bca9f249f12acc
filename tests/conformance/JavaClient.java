// Java's own HttpClient, with no token: it offers h2c, and sends the fax behind `Expect: 100-continue`.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.Scanner;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.regex.Pattern;

public class JavaClient {
    static final String EXTENSION = "/restapi/v1.0/account/~/extension/~";
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final Scanner INPUT = new Scanner(System.in);
    static String base;

    static HttpRequest.Builder to(String uri) {
        return HttpRequest.newBuilder(URI.create(uri.startsWith("/") ? base + uri : uri));
    }

    static byte[] send(HttpRequest request) throws Exception {
        var answer = CLIENT.send(request, BodyHandlers.ofByteArray());
        if (answer.statusCode() != 200) {
            throw new IllegalStateException(request + ": " + answer.statusCode() + " " + new String(answer.body()));
        }
        return answer.body();
    }

    static byte[] get(String uri) throws Exception {
        return send(to(uri).build());
    }

    static String json(String uri) throws Exception {
        return new String(get(uri));
    }

    // The first value of that name; whoever needs more than one pattern needs a library.
    static String find(String json, String pattern) {
        var found = Pattern.compile(pattern, Pattern.DOTALL).matcher(json);
        return found.find() ? found.group(1) : null;
    }

    static void sayId(String step, String extension) {
        System.out.println("{\"step\":\"" + step + "\",\"id\":" + find(extension, "^\\{[^{]*?\"id\"\\s*:\\s*(\\d+)") + "}");
    }

    static void sayContent(String step, byte[] content) throws Exception {
        var sha256 = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content));
        System.out.println("{\"step\":\"" + step + "\",\"bytes\":" + content.length + ",\"sha256\":\"" + sha256 + "\"}");
    }

    static String sayPages() throws Exception {
        int pages = 0, records = 0;
        String attachment = null, uri = EXTENSION + "/message-store?perPage=40";
        while (uri != null) {
            var page = json(uri);
            attachment = attachment == null ? find(page, "\"attachments\"\\s*:.*?\"uri\"\\s*:\\s*\"([^\"]*)\"") : attachment;
            pages += 1;
            records += Pattern.compile("\"attachments\"").matcher(page).results().count();
            uri = find(page, "\"nextPage\"\\s*:\\s*\\{\\s*\"uri\"\\s*:\\s*\"([^\"]*)\"");
        }
        System.out.println("{\"step\":\"pages\",\"pages\":" + pages + ",\"records\":" + records + "}");
        return attachment;
    }

    static void saySocket() throws Exception {
        var granted = new String(send(to("/restapi/oauth/wstoken").POST(BodyPublishers.noBody()).build()));
        var messages = new LinkedBlockingQueue<String>();
        var listener = new WebSocket.Listener() {
            private final StringBuilder text = new StringBuilder();

            @Override
            public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
                text.append(part);
                if (last) {
                    messages.add(text.toString());
                    text.setLength(0);
                }
                socket.request(1);
                return null;
            }
        };
        var uri = find(granted, "\"uri\"\\s*:\\s*\"([^\"]*)\"") + "?access_token="
            + find(granted, "\"ws_access_token\"\\s*:\\s*\"([^\"]*)\"");
        var socket = CLIENT.newWebSocketBuilder().buildAsync(URI.create(uri), listener).join();
        messages.take();
        socket.sendText("[{\"type\":\"ClientRequest\",\"messageId\":\"1\",\"method\":\"POST\","
            + "\"path\":\"/restapi/v1.0/subscription\"},{\"eventFilters\":[\"" + EXTENSION + "/message-store\"],"
            + "\"deliveryMode\":{\"transportType\":\"WebSocket\"}}]", true).join();
        var id = find(messages.take(), "\"id\"\\s*:\\s*\"([^\"]*)\"");
        socket.sendText("[{\"type\":\"ServerNotification\",\"messageId\":\"event\"},"
            + "{\"event\":\"/message-store\",\"subscriptionId\":\"" + id + "\"}]", true).join();
        var event = find(messages.take(), "\"event\"\\s*:\\s*\"([^\"]*)\"");
        System.out.println("{\"step\":\"socket\",\"event\":\"" + event + "\"}");
        socket.sendClose(WebSocket.NORMAL_CLOSURE, "").join();
    }

    public static void main(String[] arguments) throws Exception {
        base = arguments[0];
        sayId("extension", json(EXTENSION));
        var attachment = sayPages();

        var sms = "{\"to\":[{\"phoneNumber\":\"+15551230002\"}],\"text\":\"hi\"}";
        var post = to(EXTENSION + "/sms").header("Content-Type", "application/json").POST(BodyPublishers.ofString(sms));
        var text = find(new String(send(post.build())), "\"subject\"\\s*:\\s*\"([^\"]*)\"");
        System.out.println("{\"step\":\"sms\",\"text\":\"" + text + "\"}");

        var fax = "--b\r\nContent-Disposition: form-data; name=\"json\"; filename=\"request.json\"\r\n"
            + "Content-Type: application/json\r\n\r\n{\"to\":[{\"phoneNumber\":\"+15551230002\"}]}\r\n"
            + "--b\r\nContent-Disposition: form-data; name=\"attachment\"; filename=\"page.txt\"\r\n"
            + "Content-Type: text/plain\r\n\r\n" + "page".repeat(750) + "\r\n--b--\r\n";
        var sent = to(EXTENSION + "/fax").header("Content-Type", "multipart/form-data; boundary=b")
            .expectContinue(true).POST(BodyPublishers.ofString(fax));
        var pages = find(new String(send(sent.build())), "\"faxPageCount\"\\s*:\\s*(\\d+)");
        System.out.println("{\"step\":\"fax\",\"pages\":" + pages + "}");

        var recording = find(json(EXTENSION + "/call-log/IXPCm_tIkCduk4I"), "\"contentUri\"\\s*:\\s*\"([^\"]*)\"");
        sayContent("recording", get(recording));
        sayContent("attachment", get(attachment));
        saySocket();
        System.out.println("{\"ask\":\"expire\"}");
        INPUT.nextLine();
        sayId("expired", json(EXTENSION));
        System.exit(0);
    }
}
