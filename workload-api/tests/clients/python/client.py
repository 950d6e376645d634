"""What a module in Python does with the package `spiffe`: the same as ../go/main.go, line by line."""

import threading

from spiffe import WorkloadApiClient
from spiffe.errors import PySpiffeError

with WorkloadApiClient() as client:
    svid = client.fetch_x509_svid()
    print("x509", svid.spiffe_id, flush=True)

    token = client.fetch_jwt_svid(audience={"db", "queue"})
    print("jwt", token.spiffe_id, f"[{' '.join(sorted(token.audience))}]", flush=True)
    judged = client.validate_jwt_svid(token.token, audience="db")
    print("judged", judged.spiffe_id, flush=True)
    try:
        client.validate_jwt_svid(token.token, audience="other")
        raise SystemExit("a token for another audience was believed")
    except PySpiffeError:
        pass

    from spiffe import JwtSvid

    bundles = client.fetch_jwt_bundles()
    own = bundles.get_bundle_for_trust_domain(token.spiffe_id.trust_domain)
    local = JwtSvid.parse_and_validate(token.token, own, {"queue"})
    print("verified", local.spiffe_id, flush=True)
    print("bundles", own.trust_domain, len(own.jwt_authorities), flush=True)
    roots = client.fetch_x509_bundles()
    print("roots", len(roots.bundles), flush=True)

    updates = []
    first, second = threading.Event(), threading.Event()

    def update(context):
        updates.append(context.default_svid.leaf)
        (second if first.is_set() else first).set()

    cancel = client.stream_x509_contexts(update, lambda error: print(error, flush=True))
    assert first.wait(60)
    print("watching", flush=True)
    assert second.wait(60)
    print("rotated", str(updates[0] != updates[1]).lower(), flush=True)
    cancel.cancel()
