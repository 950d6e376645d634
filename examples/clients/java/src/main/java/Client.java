import io.spiffe.exception.SocketEndpointAddressException;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.svid.x509svid.X509SvidValidator;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.time.format.DateTimeFormatter;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/**
 * A module in Java: its identity, a token, and the next certificate, with java-spiffe.
 *
 * <pre>mvn -q compile
 * java -cp 'target/classes:target/lib/*' Client AUDIENCE</pre>
 *
 * SPIFFE_ENDPOINT_SOCKET names the socket; inside a module it is set.
 */
public final class Client {
    private static String serial(X509Svid svid) {
        return svid.getLeaf().getSerialNumber().toString(16);
    }

    /** Takes each whole state that the gateway gives: the present one, and one at each change. */
    private static final class Updates implements Watcher<X509Context> {
        final BlockingQueue<X509Context> queue = new LinkedBlockingQueue<>();

        @Override
        public void onUpdate(X509Context context) {
            queue.add(context);
        }

        @Override
        public void onError(Throwable error) {
            System.err.println("refused: " + error.getMessage());
            System.exit(1);
        }
    }

    private static void run(WorkloadApiClient client, String audience) throws Exception {
        X509Context context = client.fetchX509Context();
        // The first is the default. For TLS connections see java-spiffe-provider: a KeyStore that follows by itself.
        X509Svid svid = context.getDefaultSvid();
        // What the other side of a connection does.
        X509SvidValidator.verifyChain(svid.getChain(), context.getX509BundleSet());
        System.out.println("identity: " + svid.getSpiffeId());
        System.out.println("serial: " + serial(svid));
        System.out.println("ends: " + DateTimeFormatter.ISO_INSTANT.format(svid.getLeaf().getNotAfter().toInstant()));

        // A token that tells `audience` who we are. Fetch one whenever it is needed: the gateway keeps them.
        JwtSvid token = client.fetchJwtSvid(audience);
        // What the other side does: it checks the token with the trust domain's keys, and for its own name.
        JwtSvid judged = JwtSvid.parseAndValidate(token.getToken(), client.fetchJwtBundles(), Set.of(audience));
        System.out.println("token: " + judged.getSpiffeId() + " for " + audience);

        context.getX509BundleSet().getBundles().keySet().forEach(domain -> System.out.println("trusts: " + domain));

        // The gateway renews a certificate at half of its life.
        Updates updates = new Updates();
        client.watchX509Context(updates);
        X509Svid newest = updates.queue.take().getDefaultSvid();
        System.out.println("waiting for the next certificate");
        while (serial(newest).equals(serial(svid))) {
            newest = updates.queue.take().getDefaultSvid();
        }
        System.out.println("serial: " + serial(newest));
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 1) {
            System.err.println("usage: Client AUDIENCE");
            System.exit(2);
        }
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
            run(client, arguments[0]);
        } catch (SocketEndpointAddressException error) {
            System.err.println("no socket: " + error.getMessage());
            System.exit(1);
        } catch (Exception error) {
            // The library wraps the status of the call.
            System.err.println("refused: " + (error.getCause() == null ? error : error.getCause()).getMessage());
            System.exit(1);
        }
        // Threads of the library may still wait.
        System.exit(0);
    }
}
