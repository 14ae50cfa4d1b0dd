vcl 4.1;
# Varnish as the edge in front of Headrace's origin (`core:8082`, see docker/compose.yaml).
#   varnishd -F -a :8080 -f /etc/varnish/default.vcl -s malloc,1g -p thread_pool_max=5000
# tests/edge/test_others_in_our_place.py runs this file. docs/cdn.md says why it is as it is.
import std;

backend origin {
    .host = "core";
    .port = "8082";
    .connect_timeout = 3s;
    # A blocked playlist request may take three target durations.
    .first_byte_timeout = 40s;
    .between_bytes_timeout = 15s;
}

sub vcl_recv {
    if (req.method != "GET" && req.method != "HEAD") {
        return (synth(405));
    }
    if (req.url !~ "^/live/") {
        return (synth(404));
    }
    unset req.http.Cookie;
    # What a client says of its cache must not get past ours: one viewer could make us ask again and again.
    unset req.http.Cache-Control;
    unset req.http.Pragma;
    # Only these parameters make another object, in whatever order they come.
    set req.url = regsuball(req.url, "(?<=[?&])(?!_HLS_(msn|part|skip)=)[^&]*(&|$)", "");
    set req.url = regsub(req.url, "[?&]+$", "");
    set req.url = std.querysort(req.url);
    # Without this, Varnish's own list would keep a request with Authorization out of the cache.
    return (hash);
}

sub vcl_hash {
    # Not the host: one stream has one copy here, whatever name viewers use.
    hash_data(req.url);
    return (lookup);
}

sub vcl_backend_response {
    # The lifetime is the origin's. An object past it may stand in while another is fetched, but for a moment
    # only: an old playlist stops a player as surely as none.
    set beresp.grace = 1s;
    set beresp.keep = 10s;
    if (beresp.status >= 500 && beresp.ttl <= 0s) {
        # One answer for all who wait, instead of one question each.
        set beresp.ttl = 1s;
        set beresp.uncacheable = false;
    }
    if (beresp.http.Content-Type ~ "(mpegurl|dash\+xml)") {
        set beresp.do_gzip = true;
    }
    return (deliver);
}

sub vcl_backend_error {
    # As above, for an origin that does not answer at all.
    set beresp.ttl = 1s;
    set beresp.grace = 0s;
    return (deliver);
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT";
    } else {
        set resp.http.X-Cache = "MISS";
    }
}
