#!/bin/sh
# Starts ringbearer for compare.py: sh ringbearer.sh BINARY PORT UPSTREAM CA TOKEN_URL WORKERS DIR
set -eu
umask 077
config="$7/ringbearer-$2.toml"
cat > "$config" <<EOF
[proxy]
listen = "127.0.0.1:$2"
workers = $6
client_idle_timeout = "10m"
hosts = "*"
[upstream]
url = "$3"
ca_file = "$4"
idle_timeout = "10m"
[application.bench]
client_id = "bench"
client_secret = "bench"
token_url = "$5"
token_requests_per_minute = 1000
[identity.bench]
jwt = "bench"
[store]
directory = "$7/ringbearer-store-$2"
[log]
filter = "warn"
EOF
exec "$1" --config "$config"
