"""A module in Python: its identity, a token, and the next certificate, with the package `spiffe`.

    python3 client.py AUDIENCE

SPIFFE_ENDPOINT_SOCKET names the socket; inside a module it is set.
"""

import sys
import threading

from spiffe import JwtSvid, WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError


def say(*words):
    print(*words, flush=True)


def main(audience):
    with WorkloadApiClient() as client:
        # Once, to be refused at once if this process is not the module's; a source would try again and again.
        client.fetch_x509_svid()

        # A source keeps the newest certificate, key and roots. Ask it at each connection and keep nothing of it.
        with X509Source(workload_api_client=client) as source:
            updated = threading.Event()
            source.subscribe_for_updates(updated.set)
            svid = source.svid
            say("identity:", svid.spiffe_id)
            say(f"serial: {svid.leaf.serial_number:x}")
            say("ends:", svid.leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"))

            # A token that tells `audience` who we are. Fetch one whenever it is needed: the gateway keeps them.
            token = client.fetch_jwt_svid(audience={audience})
            # What the other side does: it checks the token with the trust domain's keys, and for its own name.
            keys = client.fetch_jwt_bundles().get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
            caller = JwtSvid.parse_and_validate(token.token, keys, {audience}).spiffe_id
            say(f"token: {caller} for {audience}")

            for bundle in sorted(source.bundles, key=lambda bundle: str(bundle.trust_domain)):
                say("trusts:", bundle.trust_domain)

            # The gateway renews a certificate at half of its life.
            say("waiting for the next certificate")
            while source.svid.leaf == svid.leaf:
                updated.wait()
                updated.clear()
            say(f"serial: {source.svid.leaf.serial_number:x}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: client.py AUDIENCE")
    try:
        main(sys.argv[1])
    except PySpiffeError as error:
        sys.exit(f"refused: {error}")
