/*
 * A module in C: a TLS connection on which both sides show who they are, with OpenSSL 3 and the files that
 * `edgewarden svid watch` keeps. What speaks TLS needs no gRPC and no library of ours.
 *
 *   make
 *   edgewarden svid watch --dir /run/tls --signal SIGHUP -- ./client /run/tls HOST:PORT PEER
 *
 * PEER is the SPIFFE ID of the only module that may be at the other end. It is asked something over HTTP, and once more
 * with the next certificate.
 */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

static void refuse(const char *why) {
    fprintf(stderr, "refused: %s\n", why);
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* Certificate, key and roots as they are now. The folder that `current` leads to is looked up once: all files that are
 * read through it are of one moment, whatever is switched meanwhile. */
static SSL_CTX *load(const char *folder) {
    char current[PATH_MAX], moment[PATH_MAX], file[PATH_MAX + 16];
    snprintf(current, sizeof current, "%s/current", folder);
    if (realpath(current, moment) == NULL) refuse("there are no files: does `edgewarden svid watch` run?");

    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1) refuse("no TLS");
    snprintf(file, sizeof file, "%s/svid.pem", moment);
    if (SSL_CTX_use_certificate_chain_file(context, file) != 1) refuse(file);
    snprintf(file, sizeof file, "%s/svid_key.pem", moment);
    if (SSL_CTX_use_PrivateKey_file(context, file, SSL_FILETYPE_PEM) != 1) refuse(file);
    /* These roots and no others: those of the system know no module. */
    snprintf(file, sizeof file, "%s/bundle.pem", moment);
    if (SSL_CTX_load_verify_file(context, file) != 1) refuse(file);
    /* A server adds SSL_VERIFY_FAIL_IF_NO_PEER_CERT, or it lets in who shows nothing. */
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    return context;
}

static void print_own(SSL_CTX *context) {
    X509 *own = SSL_CTX_get0_certificate(context);
    BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(own), NULL);
    BIO *out = BIO_new_fp(stdout, BIO_NOCLOSE);
    BIO_puts(out, "serial: ");
    BN_print(out, number);
    BIO_puts(out, "\nends: ");
    ASN1_TIME_print_ex(out, X509_get0_notAfter(own), ASN1_DTFLGS_ISO8601);
    BIO_puts(out, "\n");
    BIO_free(out);
    BN_free(number);
}

/* Whether the other side is this module. That its chain leads to our roots is what the handshake found; who it is says
 * the URI in its certificate, of which an X.509-SVID has exactly one. No subject and no DNS name says it. */
static int is(SSL *ssl, const char *id) {
    int same = 0, uris = 0;
    X509 *peer = SSL_get1_peer_certificate(ssl);
    GENERAL_NAMES *names = peer ? X509_get_ext_d2i(peer, NID_subject_alt_name, NULL, NULL) : NULL;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI) continue;
        const ASN1_STRING *uri = name->d.uniformResourceIdentifier;
        size_t length = (size_t)ASN1_STRING_length(uri);
        same = length == strlen(id) && memcmp(ASN1_STRING_get0_data(uri), id, length) == 0;
        uris++;
    }
    GENERAL_NAMES_free(names);
    X509_free(peer);
    return same && uris == 1;
}

/* Nothing is sent before it is known who is there. */
static void ask(const char *folder, const char *address, const char *peer) {
    static const char question[] = "GET / HTTP/1.0\r\n\r\n";
    char answer[64];
    SSL_CTX *context = load(folder);
    print_own(context);
    BIO *connection = BIO_new_connect(address);
    if (connection == NULL || BIO_do_connect(connection) != 1) refuse(address);
    SSL *ssl = SSL_new(context);
    SSL_set_bio(ssl, connection, connection);
    if (SSL_connect(ssl) != 1) refuse(X509_verify_cert_error_string(SSL_get_verify_result(ssl)));
    if (!is(ssl, peer)) refuse("somebody else is there");
    if (SSL_write(ssl, question, sizeof question - 1) <= 0) refuse("the other side does not listen");
    /* With TLS 1.3 a server that refuses our certificate says so here, after the handshake. */
    int length = SSL_read(ssl, answer, sizeof answer - 1);
    if (length <= 0) refuse("by the other side");
    answer[length] = '\0';
    printf("peer: %s says %.*s\n", peer, (int)strcspn(answer, "\r\n"), answer);
    SSL_shutdown(ssl);
    SSL_free(ssl);
    SSL_CTX_free(context);
}

int main(int count, char **arguments) {
    if (count != 4) refuse("usage: client FOLDER HOST:PORT PEER");
    /* Blocked from the start, so that no change is missed that is told before we wait for it. */
    int number;
    sigset_t changed;
    sigemptyset(&changed);
    sigaddset(&changed, SIGHUP);
    sigprocmask(SIG_BLOCK, &changed, NULL);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    ask(arguments[1], arguments[2], arguments[3]);
    puts("waiting for the next certificate");
    sigwait(&changed, &number);
    ask(arguments[1], arguments[2], arguments[3]);
    return 0;
}
