statements! { Scheduler:
    /// Channels and payloads.
    NOTIFY = "SELECT pg_notify(n.channel, n.payload) FROM unnest($1::text[], $2::text[]) AS n (channel, payload)";
    OWN_BACKEND = "SELECT pg_backend_pid()";
}
