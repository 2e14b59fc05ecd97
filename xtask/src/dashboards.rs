//! `cargo xtask dashboards`: writes deploy/grafana, or checks that it is what `panels.rs` says.
//!
//! Two dashboards of one table: what the engine shows, and the same panels over the metrics that a kubelet has.

mod panels;

use std::fs;

use anyhow::Context;
use serde_json::{Value, json};

use self::panels::{Kind, Kubelet, Panel, Query, ROWS, Row};
use crate::shell;

/// Of the dashboards' JSON: Grafana 10.4 and later reads it as it is.
const SCHEMA_VERSION: u64 = 39;

/// Columns of Grafana's grid.
const GRID_WIDTH: u64 = 24;

/// Lines of the grid that a graph takes.
const LINES_HEIGHT: u64 = 8;

/// The two metrics sources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Engine,
    Kubelet,
}

impl Over {
    const ALL: [Over; 2] = [Over::Engine, Over::Kubelet];

    fn file(self) -> &'static str {
        match self {
            Over::Engine => "deploy/grafana/probe-engine.json",
            Over::Kubelet => "deploy/grafana/kubelet-probes.json",
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compare instead of writing
    #[arg(long)]
    check: bool,
}

/// Writes or compares.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.check {
        let findings = differences()?;
        anyhow::ensure!(findings.is_empty(), "{}", findings.join("\n"));
        return Ok(());
    }
    for over in Over::ALL {
        let path = shell::root().join(over.file());
        fs::write(&path, text(over)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A finding for each file that is not what the table says.
pub(crate) fn differences() -> anyhow::Result<Vec<String>> {
    let differs = |over: &Over| fs::read_to_string(shell::root().join(over.file())).ok() != Some(text(*over));
    let told = |over: Over| format!("{}: differs from xtask/src/dashboards; run `cargo xtask dashboards`", over.file());
    Ok(Over::ALL.into_iter().filter(differs).map(told).collect())
}

fn text(over: Over) -> String {
    serde_json::to_string_pretty(&dashboard(over)).expect("values under names are always JSON") + "\n"
}

fn dashboard(over: Over) -> Value {
    let (title, uid, description) = match over {
        Over::Engine => ("probe-engine", "probe-engine", "Kubernetes probes made by probe-engine."),
        Over::Kubelet => (
            "Kubelet probes",
            "kubelet-probes",
            "Kubernetes probes made by the kubelet: the panels of probe-engine's dashboard over the kubelet's own metrics \
             (/metrics/probes and /metrics), and what those cannot show.",
        ),
    };
    json!({
        "annotations": { "list": [] },
        "description": description,
        "editable": true,
        "graphTooltip": 1,
        "links": [],
        "panels": grid(over),
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["kubernetes", "probes"],
        "templating": { "list": variables(over) },
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "browser",
        "title": title,
        "uid": uid,
        "version": 1,
    })
}

fn variables(over: Over) -> Vec<Value> {
    let metric = match over {
        Over::Engine => "probe_engine_build_info",
        Over::Kubelet => "prober_probe_total",
    };
    let mut list = vec![
        json!({ "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus" }),
        variable("job", "Job", &format!("label_values({metric}, job)"), false),
        variable("instance", "Node", &format!("label_values({metric}{{job=\"$job\"}}, instance)"), true),
        variable(
            "namespace",
            "Namespace",
            "label_values(prober_probe_total{job=\"$job\", instance=~\"$instance\"}, namespace)",
            true,
        ),
    ];
    if over == Over::Engine {
        let query = "label_values(probe_engine_attempts_rescheduled_total{job=\"$job\"}, handler)";
        list.push(variable("handler", "Handler", query, true));
    }
    list
}

/// `all`: several may be chosen, and all, which is everything: what has no such label too.
fn variable(name: &str, label: &str, query: &str, all: bool) -> Value {
    let mut variable = json!({
        "name": name,
        "label": label,
        "type": "query",
        "datasource": data_source(),
        "definition": query,
        "query": { "query": query, "refId": "A", "qryType": 1 },
        "refresh": 2,
        "sort": 1,
        "multi": all,
        "includeAll": all,
    });
    if all {
        variable["allValue"] = json!(".*");
        variable["current"] = json!({ "selected": true, "text": ["All"], "value": ["$__all"] });
    }
    variable
}

fn data_source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// The panels in their places, row by row.
fn grid(over: Over) -> Vec<Value> {
    let mut grid = Grid { panels: Vec::new(), x: 0, y: 0, line_height: 0 };
    for row in ROWS {
        let title = if over == Over::Kubelet {
            row.title.replace("The process itself", "The kubelet itself")
        } else {
            row.title.into()
        };
        grid.end_line();
        grid.place(GRID_WIDTH, 1, json!({ "type": "row", "title": title, "collapsed": false, "panels": [] }));
        match over {
            Over::Engine => row.panels.iter().for_each(|panel| grid.show(panel, panel.engine)),
            Over::Kubelet => kubelet_row(&mut grid, row),
        }
    }
    grid.panels
}

/// What a kubelet cannot show stands at the end of the row, in one text.
fn kubelet_row(grid: &mut Grid, row: &Row) {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for panel in row.panels {
        match panel.kubelet {
            Kubelet::Shows(queries) => grid.show(panel, queries),
            Kubelet::Cannot(why) => match reasons.iter_mut().find(|(reason, _)| *reason == why) {
                Some((_, titles)) => titles.push(panel.title),
                None => reasons.push((why, vec![panel.title])),
            },
        }
    }
    if reasons.is_empty() {
        return;
    }
    let lines: Vec<String> =
        reasons.iter().map(|(why, titles)| format!("* **{}**: {why}", titles.join(", "))).collect();
    let left = GRID_WIDTH - grid.x;
    let is_beside = left >= 8 && grid.line_height >= LINES_HEIGHT;
    let (width, height) = if is_beside { (left, grid.line_height) } else { (GRID_WIDTH, 2 + lines.len() as u64) };
    let options = json!({ "mode": "markdown", "content": lines.join("\n") });
    grid.place(width, height, json!({ "type": "text", "title": "What a kubelet does not tell", "options": options }));
}

struct Grid {
    panels: Vec<Value>,
    x: u64,
    y: u64,
    line_height: u64,
}

impl Grid {
    fn show(&mut self, panel: &Panel, queries: &[Query]) {
        let height = if panel.kind == Kind::Stat { 4 } else { LINES_HEIGHT };
        self.place(panel.width, height, shown(panel, queries));
    }

    fn place(&mut self, width: u64, height: u64, mut panel: Value) {
        if self.x + width > GRID_WIDTH {
            self.end_line();
        }
        panel["id"] = json!(self.panels.len() + 1);
        panel["gridPos"] = json!({ "x": self.x, "y": self.y, "w": width, "h": height });
        self.x += width;
        self.line_height = self.line_height.max(height);
        self.panels.push(panel);
    }

    fn end_line(&mut self) {
        self.y += self.line_height;
        (self.x, self.line_height) = (0, 0);
    }
}

fn shown(panel: &Panel, queries: &[Query]) -> Value {
    let (kind, custom, options) = match panel.kind {
        Kind::Stat => ("stat", json!({}), stat_options()),
        Kind::Lines => ("timeseries", lines("none", 0), lines_options()),
        Kind::Stacked => ("timeseries", lines("normal", 40), lines_options()),
        Kind::Heatmap => ("heatmap", json!({}), heatmap_options(panel.unit)),
    };
    let targets: Vec<Value> = ('A'..).zip(queries).map(|(id, query)| target(panel.kind, id, query)).collect();
    json!({
        "type": kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": data_source(),
        "fieldConfig": { "defaults": { "unit": panel.unit, "min": 0, "custom": custom }, "overrides": [] },
        "options": options,
        "targets": targets,
    })
}

fn target(kind: Kind, id: char, query: &Query) -> Value {
    let expr = query.expr.replace("{@", "{job=\"$job\", instance=~\"$instance\"");
    json!({
        "refId": id.to_string(),
        "datasource": data_source(),
        "editorMode": "code",
        "expr": expr,
        "legendFormat": query.legend,
        "format": if kind == Kind::Heatmap { "heatmap" } else { "time_series" },
        "range": true,
    })
}

fn lines(stacking: &str, fill_opacity: u64) -> Value {
    json!({
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": fill_opacity,
        "showPoints": "never",
        "stacking": { "mode": stacking, "group": "A" },
    })
}

fn lines_options() -> Value {
    json!({
        "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
        "tooltip": { "mode": "multi", "sort": "desc" },
    })
}

fn stat_options() -> Value {
    json!({
        "colorMode": "none",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
        "textMode": "auto",
    })
}

fn heatmap_options(unit: &str) -> Value {
    json!({
        "calculate": false,
        "cellGap": 1,
        "color": { "mode": "scheme", "scheme": "Viridis", "scale": "exponential", "exponent": 0.5, "steps": 64, "fill": "dark-orange", "reverse": false },
        "exemplars": { "color": "rgba(255,0,255,0.7)" },
        "filterValues": { "le": 1e-9 },
        "legend": { "show": true },
        "rowsFrame": { "layout": "auto" },
        "tooltip": { "mode": "single", "yHistogram": false, "showColorScale": false },
        "yAxis": { "axisPlacement": "left", "reverse": false, "unit": unit },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_panels_share_a_title_a_place_or_leave_the_grid() {
        for over in Over::ALL {
            let (mut places, mut titles) = (BTreeSet::new(), BTreeSet::new());
            for panel in grid(over) {
                let at = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
                assert!(at("x") + at("w") <= GRID_WIDTH, "{panel}");
                for (x, y) in
                    (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
                {
                    assert!(places.insert((x, y)), "({x}, {y}) is taken: {panel}");
                }
                let title = panel["title"].as_str().expect("a title").to_owned();
                assert!(panel["type"] == "text" || titles.insert(title), "{panel}");
            }
        }
    }

    #[test]
    fn every_query_asks_for_the_chosen_job_and_instances() {
        for query in ROWS.iter().flat_map(|row| row.panels).flat_map(|panel| {
            let of_kubelet = match panel.kubelet {
                Kubelet::Shows(queries) => queries,
                Kubelet::Cannot(_) => &[],
            };
            panel.engine.iter().chain(of_kubelet)
        }) {
            let selectors = query.expr.matches('{').count();
            assert!(selectors > 0 && selectors == query.expr.matches("{@").count(), "{}", query.expr);
        }
    }
}
