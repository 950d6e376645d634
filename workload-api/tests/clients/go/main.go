// What a module in Go does with go-spiffe: an identity, a token, another's token judged, bundles, and one rotation.
// Prints a line for each; the test that runs it compares them. SPIFFE_ENDPOINT_SOCKET names the socket.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

type watcher struct{ updates chan *workloadapi.X509Context }

func (w watcher) OnX509ContextUpdate(update *workloadapi.X509Context) { w.updates <- update }
func (w watcher) OnX509ContextWatchError(err error)                   { log.Print(err) }

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := must(workloadapi.New(ctx))
	defer client.Close()

	x509 := must(client.FetchX509Context(ctx))
	svid := x509.DefaultSVID()
	// The library verifies the chain by its own rules.
	id, _, err := x509svid.Verify(svid.Certificates, x509.Bundles)
	must(id, err)
	fmt.Println("x509", id)

	token := must(client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db", ExtraAudiences: []string{"queue"}}))
	fmt.Println("jwt", token.ID, token.Audience)
	judged := must(client.ValidateJWTSVID(ctx, token.Marshal(), "db"))
	fmt.Println("judged", judged.ID)
	if _, err := client.ValidateJWTSVID(ctx, token.Marshal(), "other"); err == nil {
		log.Fatal("a token for another audience was believed")
	}

	bundles := must(client.FetchJWTBundles(ctx))
	// And by the library itself, with the keys of the bundle.
	local := must(jwtsvid.ParseAndValidate(token.Marshal(), bundles, []string{"queue"}))
	fmt.Println("verified", local.ID)
	var own *jwtbundle.Bundle = must(bundles.GetJWTBundleForTrustDomain(token.ID.TrustDomain()))
	fmt.Println("bundles", own.TrustDomain(), len(own.JWTAuthorities()))
	fmt.Println("roots", len(must(client.FetchX509Bundles(ctx)).Bundles()))

	watch := watcher{make(chan *workloadapi.X509Context, 4)}
	go client.WatchX509Context(ctx, watch)
	first := (<-watch.updates).DefaultSVID().Certificates[0]
	// The test rotates when it reads this.
	fmt.Println("watching")
	second := (<-watch.updates).DefaultSVID().Certificates[0]
	fmt.Println("rotated", !first.Equal(second))
}
