// A module in Node.js: its identity, a token, and the next certificate, with gRPC and the API's own description.
//
//   node client.js AUDIENCE
//
// SPIFFE_ENDPOINT_SOCKET names the socket; inside a module it is set.
'use strict';

const { X509Certificate } = require('node:crypto');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const definition = protoLoader.loadSync(path.join(__dirname, 'workloadapi.proto'), { keepCase: true });
const { SpiffeWorkloadAPI } = grpc.loadPackageDefinition(definition);

// Without this header every call is refused: it keeps a proxy from being talked into making one.
function header() {
  const metadata = new grpc.Metadata();
  metadata.set('workload.spiffe.io', 'true');
  return metadata;
}

function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, header(), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// A chain comes as DER certificates one after the other. Each is a SEQUENCE whose length stands in its first bytes.
function certificates(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; ) {
    const width = bytes[at + 1] & 0x80 ? bytes[at + 1] & 0x7f : 0;
    const length = width ? bytes.readUIntBE(at + 2, width) : bytes[at + 1];
    const end = at + 2 + width + length;
    found.push(new X509Certificate(bytes.subarray(at, end)));
    at = end;
  }
  return found;
}

function serial(certificate) {
  return BigInt(`0x${certificate.serialNumber}`).toString(16);
}

async function main(audience) {
  const client = new SpiffeWorkloadAPI(process.env.SPIFFE_ENDPOINT_SOCKET, grpc.credentials.createInsecure());

  // The stream gives the whole state at once, and again at each change. A program that lives on opens it anew, after a
  // pause, when it ends; one without an identity ends with PermissionDenied.
  const stream = client.FetchX509SVID({}, header());
  const updates = stream[Symbol.asyncIterator]();
  const first = (await updates.next()).value;

  // The first SVID is the default. For a TLS connection: `svid.x509_svid` is the chain, `svid.x509_svid_key` the key in
  // PKCS#8 and `svid.bundle` the roots, all in DER.
  const svid = first.svids[0];
  const [leaf, ...intermediates] = certificates(svid.x509_svid);
  const roots = certificates(svid.bundle);
  // What the other side of a connection does, beside looking at times and purposes: the chain leads to a root.
  const issuers = [...intermediates, ...roots];
  if (![leaf, ...intermediates].every((each) => issuers.some((issuer) => each.checkIssued(issuer) && each.verify(issuer.publicKey)))) {
    throw new Error('the chain does not lead to a root');
  }
  console.log('identity:', svid.spiffe_id);
  console.log('serial:', serial(leaf));
  console.log('ends:', new Date(leaf.validTo).toISOString().replace('.000', ''));

  // A token that tells `audience` who we are. Fetch one whenever it is needed: the gateway keeps them.
  const { svids } = await call(client, 'FetchJWTSVID', { audience: [audience] });
  // What the other side does: it has the token checked for its own name.
  const judged = await call(client, 'ValidateJWTSVID', { audience, svid: svids[0].svid });
  console.log(`token: ${judged.spiffe_id} for ${audience}`);

  // Our own trust domain, and those that it is federated with.
  const own = new URL(svid.spiffe_id).host;
  const foreign = Object.keys(first.federated_bundles || {}).map((id) => new URL(id).host);
  for (const domain of [own, ...foreign]) console.log('trusts:', domain);

  // The gateway renews a certificate at half of its life.
  console.log('waiting for the next certificate');
  for (;;) {
    const [next] = certificates((await updates.next()).value.svids[0].x509_svid);
    if (serial(next) !== serial(leaf)) {
      console.log('serial:', serial(next));
      break;
    }
  }
  stream.cancel();
  client.close();
}

if (process.argv.length !== 3) {
  console.error('usage: node client.js AUDIENCE');
  process.exit(2);
}
main(process.argv[2]).then(
  () => process.exit(0),
  (error) => {
    console.error('refused:', error.message);
    process.exit(1);
  },
);
