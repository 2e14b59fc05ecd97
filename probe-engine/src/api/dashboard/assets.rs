//! The page and its files, as they are in `assets/dashboard`: part of this program.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

struct Asset {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const ICON: &str = "image/svg+xml";

macro_rules! asset {
    ($name:literal, $content_type:expr) => {
        Asset {
            name: $name,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../../../assets/dashboard/", $name)),
        }
    };
}

const PAGE: Asset = asset!("index.html", HTML);

const ASSETS: [Asset; 14] = [
    asset!("app.js", SCRIPT),
    asset!("banner.js", SCRIPT),
    asset!("colours.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("format.js", SCRIPT),
    asset!("heatmap.js", SCRIPT),
    asset!("overview.js", SCRIPT),
    asset!("pod.js", SCRIPT),
    asset!("quantiles.js", SCRIPT),
    asset!("rows.js", SCRIPT),
    asset!("stream.js", SCRIPT),
    asset!("table.js", SCRIPT),
    asset!("style.css", STYLE),
    asset!("icon.svg", ICON),
];

/// The strong validators of [`PAGE`] and [`ASSETS`]: of their bytes, so that another version of this program has others.
static TAGS: LazyLock<(String, Vec<String>)> =
    LazyLock::new(|| (tag(PAGE.bytes), ASSETS.iter().map(|asset| tag(asset.bytes)).collect()));

fn tag(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// The page is the same for every path: it shows what its address names.
pub(super) async fn page(headers: HeaderMap) -> Response {
    answer(&PAGE, &TAGS.0, &headers)
}

pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.iter().position(|asset| asset.name == name) {
        Some(index) => answer(&ASSETS[index], &TAGS.1[index], &headers),
        None => (StatusCode::NOT_FOUND, "no such file\n").into_response(),
    }
}

/// `no-cache`: asked for each time, and answered in a word where nothing has changed.
fn answer(asset: &Asset, tag: &'static str, headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).unwrap_or_default();
    let caching = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache")];
    if known.split(',').any(|known| known.trim() == tag) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, asset.content_type)], asset.bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_needs_is_there_and_nothing_is_fetched_from_elsewhere() {
        let all: Vec<&Asset> = ASSETS.iter().chain([&PAGE]).collect();
        for asset in &all {
            let text = std::str::from_utf8(asset.bytes).expect("text");
            let foreign = text.match_indices("://").filter(|(at, _)| {
                // The names of the namespaces of SVG are no addresses to fetch from.
                !text[..*at].ends_with("http") || !text[*at..].starts_with("://www.w3.org/")
            });
            assert_eq!(foreign.count(), 0, "{} names an address", asset.name);
            for quote in ['"', '\''] {
                for import in text.split(&format!("from {quote}./")).skip(1) {
                    let wanted = import.split(quote).next().expect("a name");
                    assert!(all.iter().any(|asset| asset.name == wanted), "{} wants {wanted}", asset.name);
                }
            }
            for wanted in text.split("/assets/").skip(1) {
                let wanted = wanted.split(['"', '\'', ')']).next().expect("a name");
                assert!(all.iter().any(|asset| asset.name == wanted), "{} wants {wanted}", asset.name);
            }
        }
    }

    #[test]
    fn no_script_writes_markup_and_the_page_has_no_script_or_style_of_its_own() {
        for asset in &ASSETS {
            let text = std::str::from_utf8(asset.bytes).expect("text");
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser"] {
                assert!(!text.contains(word), "{}: {word}", asset.name);
            }
        }
        let page = std::str::from_utf8(PAGE.bytes).expect("text");
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" on"), "inline");
        assert!(page.split("<script").skip(1).all(|script| script.split('>').next().unwrap_or("").contains(" src=")));
    }
}
