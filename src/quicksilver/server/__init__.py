"""The HTTP server: routes, streams, admission, metering, the playground."""
