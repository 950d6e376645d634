// A module in Go: its identity, a token, and the next certificate, with go-spiffe.
//
//	go run . AUDIENCE
//
// SPIFFE_ENDPOINT_SOCKET names the socket; inside a module it is set.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func run(ctx context.Context, audience string) error {
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	// Once, to be refused at once if this process is not the module's; a source would try again and again.
	now, err := client.FetchX509Context(ctx)
	if err != nil {
		return err
	}

	// A source keeps the newest certificate, key and roots. For a TLS connection give it to tlsconfig.MTLSClientConfig or
	// tlsconfig.MTLSServerConfig, which ask it at each handshake.
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		return err
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	// What the other side of a connection does.
	id, _, err := x509svid.Verify(svid.Certificates, source)
	if err != nil {
		return err
	}
	leaf := svid.Certificates[0]
	fmt.Println("identity:", id)
	fmt.Printf("serial: %x\n", leaf.SerialNumber)
	fmt.Println("ends:", leaf.NotAfter.UTC().Format(time.RFC3339))

	// A token that tells `audience` who we are. Fetch one whenever it is needed: the gateway keeps them.
	token, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return err
	}
	// What the other side does: it checks the token with the trust domain's keys, and for its own name.
	keys, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	caller, err := jwtsvid.ParseAndValidate(token.Marshal(), keys, []string{audience})
	if err != nil {
		return err
	}
	fmt.Printf("token: %s for %s\n", caller.ID, audience)

	for _, bundle := range now.Bundles.Bundles() {
		fmt.Println("trusts:", bundle.TrustDomain())
	}

	// The gateway renews a certificate at half of its life.
	fmt.Println("waiting for the next certificate")
	for svid.Certificates[0].Equal(leaf) {
		if err := source.WaitUntilUpdated(ctx); err != nil {
			return err
		}
		if svid, err = source.GetX509SVID(); err != nil {
			return err
		}
	}
	fmt.Printf("serial: %x\n", svid.Certificates[0].SerialNumber)
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: workload-client AUDIENCE")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
}
