//! Name constraints (RFC 5280 section 4.2.1.10). Those on directory names are obeyed; a certificate with a name of
//! another form that an authority constrains is refused, for endorsement keys are named by directory names.

use x509_parser::extensions::{GeneralName, NameConstraints};

use super::certificate::Certificate;
use super::fault::{Fault, Kind};
use super::name::{Name, shown};

#[derive(Debug, Default)]
pub(super) struct Constraints {
    /// One list for each certificate that permits subtrees of directory names: a name lies within one of each list.
    permitted: Vec<Vec<Name>>,
    excluded: Vec<Name>,
    /// Forms of other names that are constrained in any way.
    others: Vec<u8>,
}

impl Constraints {
    pub(super) fn add(&mut self, constraints: &NameConstraints<'_>) {
        let mut permitted = Vec::new();
        let mut permits_names = false;
        for subtree in constraints.permitted_subtrees.iter().flatten() {
            match &subtree.base {
                GeneralName::DirectoryName(base) => {
                    permits_names = true;
                    permitted.push(Name::of(base));
                }
                other => self.others.push(form(other)),
            }
        }
        if permits_names {
            self.permitted.push(permitted);
        }
        for subtree in constraints.excluded_subtrees.iter().flatten() {
            match &subtree.base {
                GeneralName::DirectoryName(base) => self.excluded.push(Name::of(base)),
                other => self.others.push(form(other)),
            }
        }
    }

    /// Section 6.1.3, steps b and c.
    pub(super) fn check(&self, certificate: &Certificate<'_>) -> Result<(), Fault> {
        if !certificate.subject.is_empty() && !self.allows(&certificate.subject) {
            return Err(Self::refused(certificate, &shown(certificate.parsed.subject())));
        }
        for name in certificate.other_names() {
            match name {
                GeneralName::DirectoryName(directory) if !self.allows(&Name::of(directory)) => {
                    return Err(Self::refused(certificate, &shown(directory)));
                }
                // A constraint on directory names that cannot be read stands here too.
                other if self.others.contains(&form(other)) => {
                    return Err(Fault::new(
                        Kind::Unsupported,
                        format!(
                            "{} has another name than a directory name, and an authority constrains such names",
                            certificate.called()
                        ),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn allows(&self, name: &Name) -> bool {
        let permitted = self.permitted.iter().all(|list| list.iter().any(|base| name.is_within(base)));
        permitted && !self.excluded.iter().any(|base| name.is_within(base))
    }

    fn refused(certificate: &Certificate<'_>, name: &str) -> Fault {
        let called = certificate.called();
        Fault::invalid(format!(
            "an authority may not vouch for the name `{name}` of {called} (nameConstraints)"
        ))
    }
}

/// The form of a name, by its tag. What cannot be read is a form of its own, so that it is never taken for another.
fn form(name: &GeneralName<'_>) -> u8 {
    match name {
        GeneralName::OtherName(..) => 0,
        GeneralName::RFC822Name(_) => 1,
        GeneralName::DNSName(_) => 2,
        GeneralName::X400Address(_) => 3,
        GeneralName::DirectoryName(_) => 4,
        GeneralName::EDIPartyName(_) => 5,
        GeneralName::URI(_) => 6,
        GeneralName::IPAddress(_) => 7,
        GeneralName::RegisteredID(_) => 8,
        GeneralName::Invalid(tag, _) => u8::try_from(tag.0).unwrap_or(u8::MAX),
    }
}
