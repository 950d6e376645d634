use std::fmt;

/// Declares the reason codes once: the variant, its stable text, and what an operator does next.
macro_rules! reasons {
    ($($variant:ident $code:literal $next:literal;)*) => {
        /// Reason code of a refusal. The text form is stable: scripts and alerts match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum Reason {
            $(#[serde(rename = $code)] $variant,)*
        }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The stable code, `area.reason`.
            pub fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code,)* }
            }

            /// True when the same may be granted later, though nobody changes anything: a daemon, a disk, a chip, a
            /// registry or the clock was not as it should be. Whoever was refused tries again by itself.
            pub fn passes(self) -> bool {
                matches!(
                    self,
                    Self::Internal
                        | Self::StartFailed
                        | Self::GatewayIncomplete
                        | Self::Busy
                        | Self::Storage
                        | Self::EstUnavailable
                        | Self::EstPending
                        | Self::FederationUnavailable
                        | Self::IdentityUnavailable
                        | Self::ImageUnavailable
                        | Self::StartPermit
                        | Self::DeviceMissing
                        | Self::VolumeFailed
                )
            }

            /// The next step for a person who meets this refusal.
            pub fn next_step(self) -> &'static str {
                match self { $(Reason::$variant => $next,)* }
            }
        }
    };
}

reasons! {
    // Attestation (enrolment and renewal)
    AttestEkMissing "attest.ek_missing" "ask the maker of the TPM or of the board for the certificate (`tpm2_getekcertificate` fetches it for some TPMs); or join with keys in a file, `edgewarden join --keystore software:PASSPHRASE_FILE`, by a token of `edgewarden-fleet token create --allow-software`";
    AttestEkUntrusted "attest.ek_untrusted" "if you trust the TPM's maker, get its CA certificates and add them with `edgewarden-fleet vendor add FILE`; the message names the one that is missing";
    AttestEkExpired "attest.ek_expired" "compare the fleet's clock with the dates in the message; a certificate whose time is over is its maker's to renew";
    AttestEkUnsupported "attest.ek_unsupported" "this TPM's certificates need what this version cannot check; update the fleet, or use a TPM of another kind";
    AttestEkInvalid "attest.ek_invalid" "the certificate or the key breaks the rule in the message; ask the TPM's maker, and look for an impostor";
    AttestEkMismatch "attest.ek_mismatch" "this name belongs to another TPM: take another name, or, when that machine is gone for good, `edgewarden-fleet device remove NAME` and join again";
    AttestAkAttributes "attest.ak_attributes" "the attestation key is not a restricted signing key of the TPM; update edgewarden on the gateway";
    AttestActivation "attest.activation" "the TPM that answered is not the one that owns the EK certificate; look for an impostor";
    AttestNonce "attest.nonce" "start again: the challenge is unknown, used or too old";
    AttestQuote "attest.quote" "update edgewarden on the gateway; if it is up to date, look for an impostor: the quote is not one of this TPM";
    AttestPcrSelection "attest.pcr_selection" "the TPM must have the SHA-256 bank on; enable it in the firmware";
    AttestEventLog "attest.event_log" "the event log does not explain the PCRs: compare what `edgewarden attest export FOLDER` writes, and start the machine again; a log that stays short is the firmware's fault";
    AttestLogMissing "attest.log_missing" "boot by UEFI with measured boot on, mount securityfs at /sys/kernel/security, or name the log with `edgewarden join --event-log`; then start identityd again";
    AttestUnmeasured "attest.unmeasured" "turn on measured boot (TPM, Secure Boot) in the firmware's setup and restart: the TPM has measured nothing";
    AttestReference "attest.reference" "if the change was meant, accept it as a reference with `edgewarden-fleet reference accept --gateway NAME`; else undo it and restart the gateway";
    AttestCertify "attest.certify" "the gateway CA key is not proven to be in the TPM: join again with `edgewarden join`; when it stays so, look for what stands between this machine and its TPM";
    AttestCsr "attest.csr" "the request does not carry the certified key and the nonce: join again with `edgewarden join`";
    AttestRequired "attest.required" "join the fleet first: `edgewarden join`";
    AttestFailed "attest.failed" "the gateway's verdict is `failed`: `edgewarden status` names the check, and `edgewarden renew` asks for a new verdict when that is mended";
    AttestRuntimeLog "attest.runtime_log" "look at what else extends that PCR, and compare `edgewarden attest export` with the audit log";
    // Enrolment
    EnrolToken "enrol.token" "make a join token with `edgewarden-fleet token create`";
    EnrolName "enrol.name" "the token or certificate is for another name; use that name";
    EnrolHardware "enrol.hardware" "if this gateway has no TPM, make the token with `edgewarden-fleet token create --allow-software`";
    EnrolLabels "enrol.labels" "labels are the operator's: make the token with `edgewarden-fleet token create --label KEY=VALUE` for each, and join with the same";
    // A site's own CA (EST)
    EstConfig "est.config" "correct the EST settings; the message names the one";
    EstUnavailable "est.unavailable" "the EST server cannot be reached or is out of order; it is asked again by itself";
    EstUntrusted "est.untrusted" "the EST server is not the one that the trust anchors and the URL name, or it does not accept our certificate";
    EstAuthorization "est.authorization" "the EST server does not accept the password or the certificate; ask the site's CA";
    EstRejected "est.rejected" "the EST server refused the request itself; check the URL and the label, and ask the site's CA";
    EstPending "est.pending" "the site's CA has not decided; ask its operator to approve the request";
    EstAnswer "est.answer" "the answer is not what RFC 7030 says; check that the URL is an EST server's";
    EstAttributes "est.attributes" "the site's CA asks for what a P-256 key or this client cannot give; change its CSR attributes";
    EstCertificate "est.certificate" "the certificate is not one that may be used; ask the site's CA, and check the clock and the trust anchors";
    // Deployments
    DeploymentSignature "deployment.signature" "sign the deployment with an operator key that the gateway pins: one of `operator_keys` in its configuration";
    DeploymentRollback "deployment.rollback" "give the deployment a version above the one that the message names; to go back, deploy the old content under a new version";
    DeploymentInvalid "deployment.invalid" "correct the document; `edgewarden-fleet deploy --check` shows the place";
    DeploymentSelector "deployment.selector" "`edgewarden-fleet device list` shows which labels there are; with `--allow-empty` it is kept for gateways that are still to join";
    DeploymentTarget "deployment.target" "the deployment is for another trust domain, or for labels that this gateway does not have: compare `[gateway]` in its configuration with the selector";
    // Images
    ImageUnsigned "image.unsigned" "sign the image with `edgewarden image sign`";
    ImageSignature "image.signature" "no signature verifies with the deployment's image keys; sign with one of them";
    ImageDigestMismatch "image.digest_mismatch" "the signature is for other content: the tag was moved after signing; sign the new digest or deploy the old";
    ImageRepositoryMismatch "image.repository_mismatch" "the signature was made for another repository; sign in this one";
    ImageContent "image.content" "the bytes do not match their digest; pull again from a healthy registry";
    ImageWithdrawn "image.withdrawn" "nobody vouches for the image that runs: sign it with one of the deployment's image keys and deploy it again, or put the key back if it was taken out by mistake";
    ImageInvalid "image.invalid" "the manifest or its evidence is malformed; build the image again";
    ImageUnsupported "image.unsupported" "the message names what is not unpacked (docs/modules.md, \"The image\"): build the image without it";
    ImageUser "image.user" "name a user that the image's `/etc/passwd` has, or a number below 65536: with USER in the image, or `user` of the module in the deployment";
    ImageCommand "image.command" "correct what the message names: ENTRYPOINT, CMD, WORKDIR or PATH of the image, or `args` and `env` of the deployment";
    ImagePlatform "image.platform" "deploy the digest of the image for this gateway's processor and linux; `docker buildx imagetools inspect` lists them";
    ImageLogin "image.login" "the message says which registry wants a login and whether one was there: put it into the file that `runtime.registry_credentials_file` names, or for a command into `--credentials FILE` (docs/registries.md)";
    ImageTooLarge "image.too_large" "the manifest, evidence or layer is over the limit in docs/specification.md";
    ImageUnavailable "image.unavailable" "the registry did not give the image; check its address and the digest";
    // Starts and identity
    StartFailed "start.failed" "the message is the OCI runtime's or the kernel's own, and the start is tried again; `edgewarden doctor` looks for what this gateway lacks";
    GatewayIncomplete "gateway.incomplete" "install on the gateway what the message names; the start is tried again by itself, and `edgewarden doctor` looks for the rest";
    StartPermit "start.permit" "the start is tried again by itself; when it stays refused, compare the module with `edgewarden deployment show`";
    CallerUnknown "caller.unknown" "the caller ended or could not be identified before it had its answer; call again from inside the module";
    CallerNotModule "caller.not_module" "only processes of the module's own container may use its socket";
    CallerHeader "caller.header" "send the metadata `workload.spiffe.io: true` (SPIFFE Workload Endpoint section 3)";
    CallerBudget "caller.budget" "this module has too many calls or streams open; close some (limits: docs/workload-api.md)";
    SdsName "sds.name" "ask for `default`, `ROOTCA`, `ALL` or one of the module's own SPIFFE IDs; see docs/workload-api.md";
    DeviceMissing "device.missing" "plug it in, or correct the path in the deployment; the start is tried again by itself. `/dev/serial/by-id` has names that stay";
    DeviceForbidden "device.forbidden" "give the module what it needs of it in another way: a volume for a disk, the gateway's own keys for a TPM";
    VolumeFailed "volume.failed" "see what the message says of the disk; `edgewarden doctor` looks for what a volume needs. What is in the volume stays";
    ModuleOutOfMemory "module.out_of_memory" "raise the module's `memory_bytes` in the deployment, or have it need less; `edgewarden logs` shows what it printed before";
    ModuleOutOfProcesses "module.out_of_processes" "raise the module's `pids_max` in the deployment, or have it start fewer processes and threads";
    ModuleAltered "module.altered" "somebody with root changed the container from outside; look at who works on this gateway. The module was started anew, as it is meant to be";
    ModuleExited "module.exited" "see what it printed with `edgewarden logs`";
    IdentityUnavailable "identity.unavailable" "there is no certificate to issue from yet: `edgewarden status` says why, `edgewarden renew` tries again now";
    IdentityExpiring "identity.expiring" "restore the way to the fleet or the site's CA, then `edgewarden renew`; for a site that stays offline, a longer lease (docs/operations.md)";
    IdentityForeign "identity.foreign" "ask for the identity that this module has, or for none in particular";
    JwtAudience "jwt.audience" "name 1 to 16 audiences that the token is for, short and without control characters";
    JwtInvalid "jwt.invalid" "do not believe this token; whoever sent it must fetch a fresh one for this audience";
    PeerUnauthorized "peer.unauthorized" "ask as root, or, for a device, connect with a certificate of this gateway: `edgewarden leaf allow` lets it enrol";
    // The workload API of Azure IoT Edge
    IotedgeModule "iotedge.module" "name the module and the generation of this very container: IOTEDGE_MODULEID and IOTEDGE_MODULEGENERATIONID";
    IotedgeVersion "iotedge.api_version" "use the version that IOTEDGE_APIVERSION says";
    IotedgeName "iotedge.name" "ask for the module's own name, or grant the name with `server_names` in the deployment";
    IotedgeCiphertext "iotedge.ciphertext" "decrypt what this module encrypted on this gateway, unchanged and with the same initialization vector";
    IdentityResidentKey "identity.resident_key" "this module's key stays in the keystore: get its certificate with Certify of edgewarden.keys.v1 (docs/keys.md)";
    // Resident keys
    KeyCapability "key.capability" "ask for a new capability with Grant (docs/keys.md)";
    KeyUnknown "key.unknown" "make it with CreateKey or Seal; ListKeys shows what there is";
    KeyExists "key.exists" "take another name, use the one that is there with Grant, or delete it first";
    KeyLimit "key.limit" "this module is at a limit of keys.v1 (docs/keys.md): delete a key, or call less at a time";
    KeyExhausted "key.exhausted" "this key has encrypted as much as it may: make another and encrypt with that";
    KeyCiphertext "key.ciphertext" "decrypt with the key, the module and the context that it was encrypted with";
    // Policy
    PolicyDenied "policy.denied" "no rule of the policy in force allows it: `edgewarden policy explain FROM TO` says why; allow it in the deployment (docs/policy.md), if it is meant to be";
    PolicyInvalid "policy.invalid" "correct the policy where the message says (docs/policy.md); the last good epoch stays in force";
    FlowLimit "policy.flow_limit" "have the module close what it does not need, or keep connections open instead of making new ones; the share is in docs/specification.md";
    PlaceMismatch "policy.place_mismatch" "a certificate is good at its own place only: a module's from its own address, a leaf device's through the leaves' port; look for a copied key";
    // What is enforced outside of our processes
    EnforcementAltered "enforcement.altered" "it was put back. Find what changes it (a firewall's reload, a network manager) and have it leave the table `edgewarden`, the interfaces `ew*` and our sockets alone";
    EnforcementLost "enforcement.lost" "it is tried again each second, and the modules' own walls stand; the message says what is in the way";
    // Secrets
    SecretMissing "secret.missing" "seal it for this gateway and module with `edgewarden-fleet secret seal`; the module starts when it has come";
    SecretSignature "secret.signature" "sign with an operator key that the gateway pins: one of `operator_keys` in its configuration";
    SecretRollback "secret.rollback" "give the secret a version above every one that it has had, removals too";
    SecretNotForUs "secret.not_for_us" "the secret names another trust domain, gateway or module; seal it for this one";
    SecretUndecryptable "secret.undecryptable" "it was altered, or the gateway has another key by now: seal it again";
    SecretLimit "secret.limit" "remove secrets, or send smaller ones: limits are in docs/secrets.md";
    // Other trust domains
    FederationUnavailable "federation.unavailable" "the bundle endpoint cannot be reached or does not answer as it should; it is asked again by itself, and the last good bundle stays";
    FederationUntrusted "federation.untrusted" "the endpoint is not the one that the deployment names: compare its certificate with `ca` or `endpoint_spiffe_id`, and ask who runs it";
    FederationBundle "federation.bundle" "the bundle is not one that may be believed; ask who runs the endpoint. The last good bundle stays";
    FederationRollback "federation.rollback" "the endpoint gave an older bundle than before; ask who runs it. To begin anew, change the entry of `federation` in the deployment";
    FederationUnknown "federation.unknown" "the deployment in force names no such endpoint (any more)";
    // Messages
    TopicInvalid "mqtt.topic_invalid" "correct the topic (MQTT 3.1.1 section 4.7)";
    TopicReserved "mqtt.topic_reserved" "publish on another topic: what the gateway says beneath `$edgewarden/` may be subscribed to, where the policy allows it (docs/messages.md)";
    ClientIdMismatch "mqtt.client_id" "use the last part of the certificate's SPIFFE ID as client identifier";
    QueueConflict "queue.conflict" "the gateway runs from an older copy of its disk (a restored backup, a VM snapshot); nothing is lost, it sends the messages under new numbers. Where nobody restored anything, look for a second machine with the same keys";
    MessageTooLarge "mqtt.message_too_large" "send less, or raise `bytes_max` of the topic in the deployment (docs/messages.md)";
    MessageSetAside "mqtt.set_aside" "look at it with `edgewarden messages set-aside`, mend the client that did not survive it, and drop it there";
    ReceiverLagging "mqtt.receiver_lagging" "this client takes less than is sent to it: see `edgewarden status`, and mend the client or give it fewer topics (docs/messages.md)";
    SessionExpired "mqtt.session_expired" "the client must subscribe again; `session_expiry_seconds` in the deployment says how long a session is kept (docs/messages.md)";
    SessionsRestored "mqtt.sessions_restored" "nothing, where somebody restored a backup: clients subscribe again when they come (docs/messages.md). Where nobody did, look for who copied this gateway's disk";
    RetainedFull "mqtt.retained_full" "remove retained messages that nobody needs by publishing empty ones on their topics (docs/messages.md)";
    QueueFull "queue.full" "the queue has reached its byte cap; restore the upstream link or raise the cap";
    // Leaves
    LeafToken "leaf.token" "allow the leaf on the gateway with `edgewarden leaf allow`";
    LeafUnknown "leaf.unknown" "declare the leaf in the deployment";
    LeafRenewal "leaf.renewal" "renew in the last two thirds of the certificate's life, with a valid certificate of this gateway for the same leaf; else enrol anew with a token of `edgewarden leaf allow`";
    // The time
    ClockDoubted "clock.doubted" "see `edgewarden clock`; when the system clock is right, `edgewarden clock accept`, else set it, or start a time service";
    // Requests of any kind
    RequestInvalid "request.invalid" "the message names what is wrong with the request; correct that";
    RequestTooLarge "request.too_large" "send less: limits are in docs/specification.md";
    KeystoreFailed "keystore.failed" "the message says what the TPM or the token lacks; `edgewarden doctor` looks closer";
    Busy "service.busy" "it cannot be done at this moment, and the message says why: try again later";
    Storage "service.storage" "nothing was kept: make room on the disk of the one that refuses, or mend it; it goes on by itself, so try again then";
    StateUntrusted "state.untrusted" "restore the whole folder from a backup of this gateway (docs/operations.md); without one, move all `*.json` in it away together and join again";
    Internal "service.internal" "this is a fault of the one that refuses, not of the request: on a gateway `edgewarden doctor` looks for its cause; the log of the daemon that refused has the details";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A refusal: which reason, about what, by which rule. The next step comes with the reason.
///
/// It is safe to show to the peer: put nothing in it that the peer may not know.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{reason}: {subject}: {rule}")]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    pub reason: Reason,
    /// The thing refused, such as a module, an image reference or a topic.
    pub subject: String,
    /// The rule that refused it, in plain words.
    pub rule: String,
}

impl Refusal {
    /// A refusal of `subject`, by the `rule` that it breaks.
    pub fn new(reason: Reason, subject: impl fmt::Display, rule: impl fmt::Display) -> Self {
        Self { reason, subject: subject.to_string(), rule: rule.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_well_formed() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            assert!(seen.insert(reason.code()), "{reason} is there twice");
            let (area, name) = reason.code().split_once('.').unwrap();
            assert!(!area.is_empty() && !name.is_empty() && !reason.next_step().is_empty());
        }
    }
}
