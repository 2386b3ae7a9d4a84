// node verify.mjs BUNDLE TRUST: verifies a sigstore bundle with npm @sigstore/verify.
// TRUST is JSON: {keys: {hint: base64 DER}, authorities: [base64 DER certificate], logs: [{url, key: base64 DER}]}.
// Prints {"ok": true, "payload": …} or {"ok": false, "code", "message"}.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { bundleFromJSON } from '@sigstore/bundle';
import { HashAlgorithm, PublicKeyDetails } from '@sigstore/protobuf-specs';
import { Verifier, toSignedEntity, toTrustMaterial } from '@sigstore/verify';

const [bundlePath, trustPath] = process.argv.slice(2);
const trust = JSON.parse(readFileSync(trustPath, 'utf8'));
const der = (text) => Buffer.from(text, 'base64');
const root = {
  certificateAuthorities: trust.authorities.map((one) => ({
    certChain: { certificates: [{ rawBytes: der(one) }] },
    validFor: { start: new Date(0) },
  })),
  timestampAuthorities: [],
  ctlogs: [],
  tlogs: trust.logs.map((one) => ({
    baseUrl: one.url,
    hashAlgorithm: HashAlgorithm.SHA2_256,
    publicKey: {
      rawBytes: der(one.key),
      keyDetails: PublicKeyDetails.PKIX_ECDSA_P256_SHA_256,
      validFor: { start: new Date(0) },
    },
    logId: { keyId: createHash('sha256').update(der(one.key)).digest() },
  })),
};
const keys = Object.fromEntries(Object.entries(trust.keys).map(([hint, key]) => [hint, { rawBytes: der(key) }]));
const logged = trust.logs.length > 0 ? 1 : 0;
try {
  const bundle = bundleFromJSON(JSON.parse(readFileSync(bundlePath, 'utf8')));
  const verifier = new Verifier(toTrustMaterial(root, keys), {
    ctlogThreshold: 0,
    tlogThreshold: logged,
    timestampThreshold: logged,
  });
  const signer = verifier.verify(toSignedEntity(bundle));
  const payload = JSON.parse(bundle.content.dsseEnvelope.payload.toString('utf8'));
  console.log(JSON.stringify({ ok: true, payload, identity: signer.identity ?? null }));
} catch (error) {
  console.log(JSON.stringify({ ok: false, code: error.code ?? error.name, message: error.message }));
  process.exitCode = 1;
}
