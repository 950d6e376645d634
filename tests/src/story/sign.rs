//! Step 4: images from our own programs, without a base image, signed in cosign's keyed layout.

use super::Shown;
use crate::site::Site;

pub const MODULES: [&str; 2] = ["analytics", "alerts"];

pub fn sign(site: &mut Site) -> Shown {
    site.start_registry()?;
    site.make_image_key()?;
    let mut shown = vec![format!("{} images built, pushed and signed", MODULES.len())];
    for module in MODULES {
        let image = format!("clinic/{module}:1");
        let pushed = site.push_image(module, &image)?;
        site.sign_image(&image)?;
        shown.push(pushed);
    }
    Ok(shown)
}
