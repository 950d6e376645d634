//! One fleet, one gateway with its simulated TPM, one registry, in one sandbox.
//!
//! Ports are fixed: a sandbox has a network of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Finished, Server, run, wait_for, wait_for_server};
use crate::{Failure, ensure};

pub const TRUST_DOMAIN: &str = "clinic.example";
pub const FLEET: &str = "127.0.0.1:8443";
pub const WEB: &str = "127.0.0.1:8080";
pub const REGISTRY: &str = "127.0.0.1:5000";
pub const LEAF_ENROL: &str = "127.0.0.1:8884";
pub const LEAF_MQTT: &str = "127.0.0.1:8883";
pub const TPM_PORT: u16 = 2321;

/// Kind of keystore that the gateway has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    SimulatedTpm,
    /// SoftHSM2.
    Token,
    Software,
}

const TOKEN_LABEL: &str = "plant gateway";
const TOKEN_PIN: &str = "13579";
/// SoftHSM2's library, where the distributions put it.
const TOKEN_LIBRARIES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
];

#[derive(Debug)]
pub struct Site {
    folder: PathBuf,
    programs: PathBuf,
    /// The gateway's name; also names its cgroups, so it is unique on the machine.
    pub gateway: String,
    pub keys: Keys,
    pub fleet: Option<Server>,
    pub registry: Option<Server>,
    pub up: Option<Server>,
    /// For the daemons, beside what they inherit.
    pub gateway_environment: Vec<(String, String)>,
}

impl Site {
    /// `folder` is made and must be new; everything is beneath it.
    pub fn new(folder: &Path, gateway: &str, keys: Keys) -> Result<Self, Failure> {
        fs::create_dir_all(folder)?;
        // The daemons' users walk through it.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        let programs = std::env::current_exe()?;
        let programs = programs.parent().ok_or_else(|| Failure::new("no folder of this program"))?;
        // A test program lies in `deps`, one below the programs of the product.
        let programs =
            if programs.ends_with("deps") { programs.parent().unwrap_or(programs) } else { programs };
        Ok(Self {
            folder: folder.to_path_buf(),
            programs: programs.to_path_buf(),
            gateway: gateway.to_owned(),
            keys,
            fleet: None,
            registry: None,
            up: None,
            gateway_environment: Vec::new(),
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The gateway's `--root`.
    pub fn root(&self) -> PathBuf {
        self.path("gateway")
    }

    /// `edgewarden …` on the gateway.
    pub fn edgewarden(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program("edgewarden"));
        command.arg("--root").arg(self.root()).args(arguments);
        if self.keys == Keys::Token {
            command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        }
        command
    }

    /// `edgewarden-fleet …` for the operator.
    pub fn operator(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program("edgewarden-fleet"));
        command.arg("--data").arg(self.path("fleet")).args(arguments);
        command
    }

    pub fn simulator(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program("simulator-tpm"));
        command.args(arguments);
        command
    }

    /// The answer of a command that prints JSON.
    pub fn json(&self, command: &mut Command) -> Result<Value, Failure> {
        let text = run(command.args(["-o", "json"]))?.ok()?;
        serde_json::from_str(text.trim()).map_err(|error| Failure(format!("not JSON ({error}): {text}")))
    }

    pub fn status(&self) -> Result<Value, Failure> {
        self.json(&mut self.edgewarden(&["status"]))
    }

    /// Text that a module printed so far, at most 10,000 lines.
    pub fn logs(&self, module: &str) -> Result<String, Failure> {
        run(&mut self.edgewarden(&["logs", module, "--last", "10000"]))?.ok()
    }

    // --- the simulated TPM ---

    pub fn manufacture(&self) -> Result<(), Failure> {
        let (state, vendor) = (self.path("tpm"), self.path("vendor"));
        run(self.simulator(&["manufacture"]).arg("--state").arg(state).arg("--vendor-ca").arg(vendor))?
            .ok()?;
        Ok(())
    }

    /// Starts the TPM and plays a measured boot into it; the event log is what the firmware would have left.
    pub fn boot(&self, scenario: &str) -> Result<(), Failure> {
        let mut command = self.simulator(&["boot", "--scenario", scenario]);
        command.arg("--state").arg(self.path("tpm")).arg("--port").arg(TPM_PORT.to_string());
        command.arg("--event-log").arg(self.event_log()).arg("--pid-file").arg(self.path("tpm.pid"));
        run(&mut command)?.ok()?;
        Ok(())
    }

    pub fn power_cut(&self) -> Result<(), Failure> {
        run(self.simulator(&["power-cut"]).arg("--pid-file").arg(self.path("tpm.pid")))?.ok()?;
        Ok(())
    }

    pub fn event_log(&self) -> PathBuf {
        self.path("event_log.bin")
    }

    // --- the fleet ---

    pub fn make_fleet(&self) -> Result<(), Failure> {
        let names = "localhost,127.0.0.1";
        run(&mut self.operator(&["init", "--trust-domain", TRUST_DOMAIN, "--name", names]))?.ok()?;
        run(self.operator(&["key", "generate", "--out"]).arg(self.path("operator.key")))?.ok()?;
        run(self.operator(&["key", "generate", "--out"]).arg(self.path("stranger.key")))?.ok()?;
        Ok(())
    }

    pub fn start_fleet(&mut self, extra: &[&str]) -> Result<(), Failure> {
        let mut command = self.operator(&["serve", "--listen", FLEET, "--web", WEB]);
        command.arg("--operator-key").arg(self.path("operator.key.pub")).args(extra);
        if self.keys == Keys::SimulatedTpm {
            command.arg("--vendor-roots").arg(self.path("tpm/vendor-ca.pem"));
        }
        let mut server = Server::start("the fleet", &mut command, &self.path("fleet.log"))?;
        wait_for_server(&mut server, Duration::from_secs(20), || self.devices())?;
        self.fleet = Some(server);
        Ok(())
    }

    pub fn restart_fleet(&mut self, extra: &[&str]) -> Result<(), Failure> {
        if let Some(mut fleet) = self.fleet.take() {
            fleet.stop();
        }
        self.start_fleet(extra)
    }

    pub fn devices(&self) -> Result<Value, Failure> {
        self.json(&mut self.operator(&["device", "list"]))
    }

    // --- the gateway ---

    /// `edgewarden join` with a fresh token.
    pub fn join(&self) -> Result<Finished, Failure> {
        let mut create =
            self.operator(&["token", "create", "--gateway", &self.gateway, "--label", "site=clinic"]);
        if self.keys != Keys::SimulatedTpm {
            create.arg("--allow-software");
        }
        let token = run(&mut create)?.ok()?;
        let token_file = self.path("join-token");
        fs::write(&token_file, token.trim())?;
        let keystore = match self.keys {
            Keys::SimulatedTpm => format!("dangerous-simulated-tpm:127.0.0.1:{TPM_PORT}"),
            Keys::Token => self.token_keystore()?,
            Keys::Software => self.software_keystore()?,
        };
        let fleet = format!("https://{FLEET}");
        let mut command = self.edgewarden(&["join", "--name", &self.gateway, "--trust-domain", TRUST_DOMAIN]);
        command.args(["--fleet", &fleet, "--keystore", &keystore, "--label", "site=clinic"]);
        command.args(["--plain-http", REGISTRY, "--svid-lifetime", "60"]);
        command.arg("--fleet-root").arg(self.path("fleet/root.pem")).arg("--token-file").arg(token_file);
        command.arg("--operator-key").arg(self.path("operator.key.pub"));
        command.arg("--event-log").arg(self.event_log());
        if self.keys == Keys::Token {
            for file in ["tokens", "softhsm2.conf"] {
                command.arg("--library-file").arg(self.path(file));
            }
        }
        run(&mut command)
    }

    fn software_keystore(&self) -> Result<String, Failure> {
        let file = self.path("passphrase");
        if !file.exists() {
            fs::write(&file, "correct horse battery staple")?;
            identitys_own(&file)?;
        }
        Ok(format!("software:{}", file.display()))
    }

    /// Makes the token at the first call, and says which it is as `edgewarden join --keystore` wants it.
    pub fn token_keystore(&self) -> Result<String, Failure> {
        let library = TOKEN_LIBRARIES.into_iter().find(|path| Path::new(path).exists());
        let library = library.ok_or_else(|| Failure::new("SoftHSM2 is not installed (package softhsm2)"))?;
        let (pin, tokens) = (self.path("pin"), self.path("tokens"));
        if !pin.exists() {
            fs::create_dir(&tokens)?;
            let configuration =
                format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
            fs::write(self.path("softhsm2.conf"), configuration)?;
            let mut make = Command::new("softhsm2-util");
            make.env("SOFTHSM2_CONF", self.path("softhsm2.conf")).args(["--init-token", "--free", "--label"]);
            run(make.args([TOKEN_LABEL, "--pin", TOKEN_PIN, "--so-pin", "officer"]))?.ok()?;
            run(Command::new("chown").args(["-R", "ew-identity"]).arg(&tokens))?.ok()?;
            fs::write(&pin, TOKEN_PIN)?;
            identitys_own(&pin)?;
        }
        Ok(format!("pkcs11:{library}:{TOKEN_LABEL}:{}", pin.display()))
    }

    /// Starts the gateway's daemons; ready when `identityd` and `runtimed` both answer.
    pub fn start_gateway(&mut self) -> Result<(), Failure> {
        let mut up = self.edgewarden(&["up"]);
        up.envs(self.gateway_environment.iter().cloned());
        let mut server = Server::start("the gateway", &mut up, &self.path("gateway.log"))?;
        wait_for_server(&mut server, Duration::from_secs(30), || {
            let status = self.status()?;
            ensure(!status["runtime"].is_null(), || "runtimed does not answer yet".into())
        })?;
        self.up = Some(server);
        Ok(())
    }

    /// Kills the supervisor and every daemon, as a crash would; the modules are not touched. The supervisor is
    /// halted first: it would start daemons again, or take them along in an orderly way.
    pub fn crash_gateway(&mut self) -> Result<(), Failure> {
        if let Some(up) = &self.up {
            let up = nix::unistd::Pid::from_raw(i32::try_from(up.pid()).unwrap_or(i32::MAX));
            let _ = nix::sys::signal::kill(up, nix::sys::signal::Signal::SIGSTOP);
        }
        for daemon in ["identityd", "runtimed", "gatewayd"] {
            let pattern = format!("^[^ ]*edgewarden {daemon} --root {}", self.root().display());
            run(Command::new("pkill").args(["-9", "-f", &pattern]))?.ok()?;
        }
        if let Some(mut up) = self.up.take() {
            up.kill();
        }
        Ok(())
    }

    /// Ends modules and daemons in an orderly way.
    pub fn down(&mut self) -> Result<(), Failure> {
        run(&mut self.edgewarden(&["down"]))?.ok()?;
        if let Some(mut up) = self.up.take() {
            up.stop();
        }
        Ok(())
    }

    pub fn wait_for_modules(&self, names: &[&str]) -> Result<(), Failure> {
        wait_for("the modules to run", Duration::from_secs(40), || {
            let status = self.status()?;
            for name in names {
                let state = module(&status, name).map(|module| module["state"].clone()).unwrap_or_default();
                ensure(state == "running", || {
                    format!("module {name} is {state}; gateway log:\n{}", self.gateway_log(15))
                })?;
            }
            Ok(())
        })
    }

    pub fn gateway_log(&self, lines: usize) -> String {
        crate::process::tail(&fs::read_to_string(self.path("gateway.log")).unwrap_or_default(), lines)
    }

    // --- images ---

    pub fn start_registry(&mut self) -> Result<(), Failure> {
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: {REGISTRY}}}\n",
            self.path("registry").display()
        );
        fs::write(self.path("registry.yml"), config)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.path("registry.yml"));
        let mut server = Server::start("the registry", &mut command, &self.path("registry.log"))?;
        wait_for_server(&mut server, Duration::from_secs(10), || {
            Ok(std::net::TcpStream::connect(REGISTRY)?)
        })?;
        self.registry = Some(server);
        Ok(())
    }

    /// Builds an image from one of the example's programs and pushes it. Gives the reference with its digest.
    pub fn push_image(&self, program: &str, image: &str) -> Result<String, Failure> {
        let layout = self.path("layouts").join(image.replace(['/', ':'], "_"));
        fs::create_dir_all(self.path("layouts"))?;
        let mut build = self.edgewarden(&["image", "build", "--binary"]);
        run(build.arg(self.program(program)).arg("--layout").arg(&layout))?.ok()?;
        let name = format!("{REGISTRY}/{image}");
        let mut push = self.edgewarden(&["image", "push"]);
        let pushed = run(push.arg(&layout).args([&name, "--plain-http", REGISTRY]))?.ok()?;
        Ok(pushed.trim().to_owned())
    }

    pub fn make_image_key(&self) -> Result<(), Failure> {
        run(self.edgewarden(&["image", "generate-key"]).arg(self.path("image.key")))?.ok()?;
        Ok(())
    }

    pub fn sign_image(&self, image: &str) -> Result<(), Failure> {
        let name = format!("{REGISTRY}/{image}");
        let mut sign = self.edgewarden(&["image", "sign", &name, "--plain-http", REGISTRY, "--key"]);
        run(sign.arg(self.path("image.key")))?.ok()?;
        Ok(())
    }
}

/// Leaves a file to `identityd`'s user alone.
fn identitys_own(file: &Path) -> Result<(), Failure> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o400))?;
    run(Command::new("chown").arg("ew-identity").arg(file))?.ok()?;
    Ok(())
}

/// The runtime's part of one module in `edgewarden status -o json`.
pub fn module<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["runtime"]["modules"].as_array()?.iter().find(|module| module["name"] == name)
}

/// True when the status names this reason code anywhere.
pub fn names_reason(status: &Value, reason: &str) -> bool {
    status.to_string().contains(&format!("\"{reason}\""))
}
