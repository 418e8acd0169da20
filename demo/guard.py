"""The requests that the demo's server accepts. Everything that the page does not need is refused, above all uploads."""
import re

# Of gradio's routes. Missing with intent: upload, file, proxy, run, call, stream, vibe-..., run-history, monitoring.
ALLOWED = {
    "GET": r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/.*"
           r"|/gradio_api/(theme\.css|queue/data|heartbeat/\w+|startup-events|app_id|info/?)",
    "HEAD": r"/",
    "POST": r"/gradio_api/(queue/join|cancel|reset/?)",
}
MOST_BYTES = 100_000            # of a request's body: numbers and a prompt
# Whatever gradio's page asks for, the browser fetches nothing from another place. It compiles its templates, hence
# eval.
POLICY = ("default-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' "
          "'unsafe-eval' blob:; connect-src 'self'; form-action 'none'; frame-ancestors 'self'; base-uri 'self'")


class Guard:
    """An ASGI application in front of another. hosts: names by which the page may be called; None: any.

    A page of another site whose name was made to point here is refused by its Host header.
    """

    def __init__(self, app, hosts=None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        status, reason = self.refusal(scope["method"], scope["path"], headers)
        if status:
            body = reason.encode()
            await send({"type": "http.response.start", "status": status,
                        "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]})
            await send({"type": "http.response.body", "body": body})
            return

        async def with_policy(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"],
                                                  (b"content-security-policy", POLICY.encode()),
                                                  (b"referrer-policy", b"no-referrer")]}
            await send(message)

        await self.app(scope, receive, with_policy)

    def refusal(self, method: str, path: str, headers: dict) -> tuple[int, str]:
        """Status and reason of a refused request; (0, "") for an accepted one."""
        host = re.sub(r":\d+$", "", headers.get(b"host", "")).strip("[]")
        if self.hosts is not None and host not in self.hosts:
            return 403, "this page answers on localhost alone"
        if not re.fullmatch(ALLOWED.get(method, "(?!)"), path):
            return 403, "not offered by this page"
        size = headers.get(b"content-length", "0")
        if method == "POST" and (not size.isdecimal() or int(size) > MOST_BYTES or b"transfer-encoding" in headers):
            return 413, "too large"
        return 0, ""
