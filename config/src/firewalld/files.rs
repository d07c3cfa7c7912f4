//! The files of a configuration, and what they say.

use super::direct::{self, Direct};
use super::rich::Ports;
use super::service::{self, Service};
use super::xml::{Element, Mistakes, Place, Value};
use super::zone::{self, Policy, Zone};
use crate::diag::{Diagnostic, Source};
use crate::facts::Family;
use crate::rule::word::nearest;
use crate::set::{Declaration, save};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

/// A file by its folder and its name, such as `zones` and `public`; those beside the folders have none.
#[derive(Debug)]
struct File {
    folder: &'static str,
    name: String,
    /// One that comes with firewalld: read where it is named.
    system: bool,
    source: Source,
    broken: Option<Diagnostic>,
}

/// The files of a configuration.
#[derive(Debug, Default)]
pub struct Files(Vec<File>);

const FOLDERS: [&str; 6] = ["zones", "services", "ipsets", "policies", "icmptypes", "helpers"];

/// What firewalld lets the host have of IPv6 where nothing else is said.
const HOST_IPV6: &str = r#"<policy target="CONTINUE" priority="-15000">
  <ingress-zone name="ANY"/>
  <egress-zone name="HOST"/>
  <rule family="ipv6"><icmp-type name="neighbour-advertisement"/><accept/></rule>
  <rule family="ipv6"><icmp-type name="neighbour-solicitation"/><accept/></rule>
  <rule family="ipv6"><icmp-type name="router-advertisement"/><accept/></rule>
  <rule family="ipv6"><icmp-type name="redirect"/><accept/></rule>
</policy>
"#;

impl Files {
    /// Reads the folder of a configuration, and the one of what comes with firewalld, which need not be there.
    pub fn open(own: &Path, system: &Path) -> Result<Files, String> {
        let mut files = Files::default();
        let told = |path: &Path, error: std::io::Error| format!("cannot read {}: {error}", path.display());
        std::fs::read_dir(own).map_err(|error| told(own, error))?;
        for name in ["firewalld.conf", "direct.xml"] {
            let path = own.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => files.add("", name, false, &path.display().to_string(), bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(told(&path, error)),
            }
        }
        for (folder, (base, is_system)) in FOLDERS.into_iter().flat_map(|f| [(f, (own, false)), (f, (system, true))]) {
            let Ok(entries) = std::fs::read_dir(base.join(folder)) else { continue };
            let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            paths.sort();
            for path in paths {
                if path.is_dir() {
                    return Err(format!("{} is a folder: put what it holds into one file", path.display()));
                }
                let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".xml")) else {
                    continue;
                };
                let bytes = std::fs::read(&path).map_err(|error| told(&path, error))?;
                files.add(folder, name, is_system, &path.display().to_string(), bytes);
            }
        }
        Ok(files)
    }

    fn add(&mut self, folder: &'static str, name: &str, system: bool, path: &str, bytes: Vec<u8>) {
        let (source, broken) = match Source::decode(path, bytes) {
            Ok(source) => (source, None),
            Err(mistake) => (mistake.0, Some(mistake.1.with_help("text in UTF-8"))),
        };
        self.0.push(File { folder, name: name.to_string(), system, source, broken });
    }

    fn find(&self, folder: &str, name: &str) -> Option<usize> {
        let of = |system| self.0.iter().position(|f| f.folder == folder && f.name == name && f.system == system);
        of(false).or_else(|| of(true))
    }

    /// The text of a file.
    pub(super) fn source(&self, file: usize) -> &Source {
        &self.0[file].source
    }

    /// Names of a folder's files, each once.
    fn names(&self, folder: &str, system: bool) -> Vec<String> {
        let of = self.0.iter().filter(|f| f.folder == folder && (system || !f.system)).map(|f| f.name.clone());
        of.collect::<std::collections::BTreeSet<String>>().into_iter().collect()
    }

    /// Reads a file of XML whose root has this name.
    fn read<T>(
        &self,
        file: usize,
        root: &str,
        mistakes: &mut Mistakes,
        read: impl FnOnce(Element, &mut Mistakes) -> T,
    ) -> Option<T> {
        let File { source, broken, .. } = &self.0[file];
        if let Some(broken) = broken {
            mistakes.0.push((file, broken.clone()));
            return None;
        }
        match roxmltree::Document::parse(source.text()) {
            Ok(document) => {
                let element = Element::root(&document, file, root, mistakes)?;
                Some(read(element, mistakes))
            }
            Err(error) => {
                let at = offset(source.text(), error.pos());
                mistakes.add(&Place::new(file, at..at), format!("this is not XML: {error}"), "XML");
                None
            }
        }
    }
}

fn offset(text: &str, pos: roxmltree::TextPos) -> usize {
    let line = text.split_inclusive('\n').take(pos.row.saturating_sub(1) as usize).map(str::len).sum::<usize>();
    let column = text[line..].chars().take(pos.col.saturating_sub(1) as usize).map(char::len_utf8).sum::<usize>();
    line + column
}

/// Which packets are logged before they are refused.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Denied {
    Off,
    All,
    Of(&'static str),
}

/// What firewalld.conf says.
#[derive(Debug)]
pub(super) struct Settings {
    pub default_zone: Value,
    log_denied: Denied,
    /// Words of `rpfilter`, for IPv6.
    pub rpfilter: Option<&'static str>,
    /// IPv6 addresses that hold private IPv4 addresses are refused.
    pub rfc3964: bool,
}

/// Keys that change nothing here.
const IDLE: [&str; 12] = [
    "MinimalMark",
    "CleanupOnExit",
    "CleanupModulesOnExit",
    "Lockdown",
    "IndividualCalls",
    "AutomaticHelpers",
    "FirewallBackend",
    "FlushAllOnReload",
    "AllowZoneDrifting",
    "NftablesFlowtable",
    "NftablesCounters",
    "ReloadPolicy",
];

/// The file's name, its keys and their values.
fn settings(files: &Files, mistakes: &mut Mistakes) -> Settings {
    let nowhere = Place::new(files.find("", "firewalld.conf").unwrap_or(0), 0..0);
    let default_zone = Value { text: "public".to_string(), at: nowhere.clone() };
    let mut settings = Settings { default_zone, log_denied: Denied::Off, rpfilter: Some(""), rfc3964: true };
    let Some(file) = files.find("", "firewalld.conf") else { return settings };
    let mut base = 0;
    for line in files.source(file).text().split_inclusive('\n') {
        let start = base;
        base += line.len();
        let text = line.trim();
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        let begin = start + line.find(text).unwrap_or(0);
        let at = Place::new(file, begin..begin + text.len());
        let Some((key, value)) = text.split_once('=') else {
            mistakes.add(&at, format!("`{text}` is no setting"), "KEY=VALUE");
            continue;
        };
        let value = Value { text: value.trim().to_string(), at: at.clone() };
        settings.set(key.trim(), value, mistakes);
    }
    settings
}

impl Settings {
    fn set(&mut self, key: &str, value: Value, mistakes: &mut Mistakes) {
        let lower = value.text.to_lowercase();
        let wrong = |accepts: &str, mistakes: &mut Mistakes| {
            mistakes.add(&value.at, format!("`{key}` cannot be `{}`", value.text), accepts);
        };
        match (key, lower.as_str()) {
            ("DefaultZone", _) => self.default_zone = value,
            ("LogDenied", "off") => self.log_denied = Denied::Off,
            ("LogDenied", "all") => self.log_denied = Denied::All,
            ("LogDenied", "unicast") => self.log_denied = Denied::Of("unicast"),
            ("LogDenied", "broadcast") => self.log_denied = Denied::Of("broadcast"),
            ("LogDenied", "multicast") => self.log_denied = Denied::Of("multicast"),
            ("LogDenied", _) => wrong("off, all, unicast, broadcast or multicast", mistakes),
            ("IPv6_rpfilter", "yes" | "true" | "strict") => self.rpfilter = Some(""),
            ("IPv6_rpfilter", "loose") => self.rpfilter = Some(" --loose"),
            ("IPv6_rpfilter", "no" | "false") => self.rpfilter = None,
            ("IPv6_rpfilter", _) => wrong("yes, strict, loose or no", mistakes),
            ("RFC3964_IPv4", "yes" | "true") => self.rfc3964 = true,
            ("RFC3964_IPv4", "no" | "false") => self.rfc3964 = false,
            ("RFC3964_IPv4", _) => wrong("yes or no", mistakes),
            ("StrictForwardPorts" | "NftablesTableOwner", "no" | "false") => {}
            ("StrictForwardPorts", _) => wrong("no: firewalld has it for nftables alone", mistakes),
            ("NftablesTableOwner", _) => {}
            _ if IDLE.contains(&key) => {}
            _ => {
                let keys = ["DefaultZone", "LogDenied", "IPv6_rpfilter", "RFC3964_IPv4"];
                let accepts = nearest(key, keys.into_iter().chain(IDLE));
                let accepts =
                    accepts.map_or("a key of firewalld.conf".to_string(), |near| format!("did you mean `{near}`?"));
                mistakes.add(&value.at, format!("there is no setting `{key}`"), accepts);
            }
        }
    }
}

/// A configuration as its files say it.
pub(super) struct Config {
    files: Files,
    pub settings: Settings,
    /// Zones that packets can be in, by name: the default zone and those that have interfaces or sources.
    pub zones: Vec<Zone>,
    /// In the order in which they judge.
    pub policies: Vec<Policy>,
    pub sets: Vec<Declaration>,
    icmp: BTreeMap<String, Vec<Family>>,
    helpers: BTreeMap<String, (String, Vec<Ports>)>,
    services: RefCell<BTreeMap<String, Option<Rc<Service>>>>,
}

impl Config {
    pub fn read(mut files: Files, mistakes: &mut Mistakes) -> Config {
        if files.find("policies", "allow-host-ipv6").is_none() {
            files.add("policies", "allow-host-ipv6", true, "allow-host-ipv6", HOST_IPV6.as_bytes().to_vec());
        }
        let settings = settings(&files, mistakes);
        let mut config = Config {
            files,
            settings,
            zones: Vec::new(),
            policies: Vec::new(),
            sets: Vec::new(),
            icmp: BTreeMap::new(),
            helpers: BTreeMap::new(),
            services: RefCell::default(),
        };
        config.read_types(mistakes);
        config.read_sets(mistakes);
        config.read_zones(mistakes);
        for name in config.files.names("services", false) {
            config.one_service(&name, mistakes);
        }
        config
    }

    /// What direct.xml says.
    pub fn direct(&self, mistakes: &mut Mistakes) -> Direct {
        let file = self.files.find("", "direct.xml");
        file.and_then(|file| self.files.read(file, "direct", mistakes, direct::direct)).unwrap_or_default()
    }

    pub fn files(&self) -> &Files {
        &self.files
    }

    fn read_types(&mut self, mistakes: &mut Mistakes) {
        for name in self.files.names("icmptypes", false) {
            let Some(file) = self.files.find("icmptypes", &name) else { continue };
            let families = self.files.read(file, "icmptype", mistakes, service::icmp_type);
            self.icmp.extend(families.map(|families| (name, families)));
        }
        for name in self.files.names("helpers", false) {
            let Some(file) = self.files.find("helpers", &name) else { continue };
            if let Some((Some(means), ports)) = self.files.read(file, "helper", mistakes, service::helper) {
                self.helpers.insert(name, (means.text, ports));
            }
        }
    }

    fn read_sets(&mut self, mistakes: &mut Mistakes) {
        let (mut text, mut places) = (String::new(), Vec::new());
        for name in self.files.names("ipsets", false) {
            let Some(file) = self.files.find("ipsets", &name) else { continue };
            let read = |root: Element, mistakes: &mut Mistakes| service::set(root, &name, mistakes);
            for (line, at) in self.files.read(file, "ipset", mistakes, read).unwrap_or_default() {
                text.push_str(&line.replace(['\n', '\r'], " "));
                text.push('\n');
                places.push(at);
            }
        }
        match save::sets(&text) {
            Ok(sets) => self.sets = sets,
            Err(complaints) => {
                for found in complaints.into_iter().map(Diagnostic::from) {
                    super::told(&text, &places, found, mistakes);
                }
            }
        }
    }

    fn read_zones(&mut self, mistakes: &mut Mistakes) {
        let mut zones: Vec<Zone> = Vec::new();
        let default = self.settings.default_zone.text.clone();
        let mut names = self.files.names("zones", false);
        if !names.contains(&default) {
            names.push(default.clone());
        }
        for name in &names {
            let Some(file) = self.files.find("zones", name) else { continue };
            let read = |root: Element, mistakes: &mut Mistakes| zone::zone(root, name, mistakes);
            zones.extend(self.files.read(file, "zone", mistakes, read));
        }
        if self.files.find("zones", &default).is_none() {
            let at = self.settings.default_zone.at.clone();
            mistakes.add(&at, format!("there is no default zone `{default}`"), self.known("zones", &default));
        }
        zone::shared(&zones.iter().collect::<Vec<_>>(), mistakes);
        for name in self.files.names("policies", true) {
            let Some(file) = self.files.find("policies", &name) else { continue };
            let read = |root: Element, mistakes: &mut Mistakes| zone::policy(root, &name, mistakes);
            self.policies.extend(self.files.read(file, "policy", mistakes, read));
        }
        self.policies.sort_by_key(|policy| policy.priority);
        for zone in self.policies.iter().flat_map(|policy| policy.ingress.iter().chain(&policy.egress)) {
            let known = matches!(zone.text.as_str(), "ANY" | "HOST") || self.files.find("zones", &zone.text).is_some();
            if !known {
                mistakes.add(&zone.at, format!("there is no zone `{}`", zone.text), self.known("zones", &zone.text));
            }
        }
        for policy in &self.policies {
            if zones.iter().any(|zone| zone.body.name == policy.body.name) {
                mistakes.add(&policy.body.at, "a zone has the name of this policy", "another name");
            }
        }
        self.zones = zones;
    }

    fn known(&self, folder: &str, name: &str) -> String {
        let names = self.files.names(folder, true);
        match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("one that has a file in {folder}"),
        }
    }

    fn one_service(&self, name: &str, mistakes: &mut Mistakes) -> Option<Rc<Service>> {
        if let Some(service) = self.services.borrow().get(name) {
            return service.clone();
        }
        let file = self.files.find("services", name)?;
        let service = self.files.read(file, "service", mistakes, service::service).map(Rc::new);
        self.services.borrow_mut().insert(name.to_string(), service.clone());
        service
    }

    /// A service and all that it includes.
    pub fn service(&self, name: &Value, mistakes: &mut Mistakes) -> Vec<(String, Rc<Service>)> {
        let (mut found, mut open): (Vec<(String, Rc<Service>)>, _) = (Vec::new(), vec![name.clone()]);
        while let Some(name) = open.pop() {
            if found.iter().any(|(known, _)| *known == name.text) {
                continue;
            }
            if self.files.find("services", &name.text).is_none() {
                let what = format!("there is no service `{}`", name.text);
                mistakes.add(&name.at, what, self.known("services", &name.text));
            } else if let Some(service) = self.one_service(&name.text, mistakes) {
                open.extend(service.includes.iter().rev().cloned());
                found.push((name.text, service));
            }
        }
        found
    }

    /// The helper of a name, and the ports that it is for, if that is said.
    pub fn helper(&self, name: &Value) -> (String, Vec<Ports>) {
        self.helpers.get(&name.text).cloned().unwrap_or((name.text.clone(), Vec::new()))
    }

    /// The families that have an ICMP type.
    pub fn icmp_families(&self, name: &str) -> Vec<Family> {
        self.icmp.get(name).cloned().unwrap_or_else(|| service::icmp_families(name).to_vec())
    }

    /// The families that a set is for, and how many parts an element has.
    pub fn set(&self, name: &Value) -> (Vec<Family>, usize) {
        match self.sets.iter().find(|set| set.header.name == name.text) {
            Some(set) => {
                let families = set.header.family.map_or(Family::ALL.to_vec(), |family| vec![family]);
                (families, set.header.kind.dimension())
            }
            None => (Family::ALL.to_vec(), 1),
        }
    }

    /// The words that log what is refused, whatever kind of packets is wanted.
    pub fn log_any(&self, prefix: &str) -> Option<String> {
        (self.settings.log_denied != Denied::Off).then(|| format!("-j LOG --log-prefix '{prefix}: '"))
    }

    /// The words that log what is refused, if that is wanted.
    pub fn log_denied(&self, prefix: &str) -> Option<String> {
        let which = match self.settings.log_denied {
            Denied::Off => return None,
            Denied::All => String::new(),
            Denied::Of(kind) => format!("-m pkttype --pkt-type {kind} "),
        };
        Some(format!("{which}-j LOG --log-prefix '{prefix}: '"))
    }
}
