//! `consilium bench secagg`: secure aggregation, kernel by kernel and as a whole.
//!
//! Every ratio is taken within one run: the floor and the kernel alternate, and the best of several counts for
//! each, because a busy machine only ever makes things slower. Kernels run on one thread, sites and coordinator on all
//! cores.

mod attempt;
mod kernels;
mod parties;
mod stopwatch;
pub(super) mod transport;

use std::io::IsTerminal as _;

use consilium_secagg::ring::Ring;
use serde::Serialize;

use self::attempt::{Attempt, Case};
use self::kernels::Kernel;
use crate::output::{Output, bytes, table};

/// Measure secure aggregation: masks, sums and the whole protocol
///
/// Floors are the machine's own: the fastest AES-256-CTR key stream and a plain `a[i] += b[i]`, in the same run. The
/// table has a row per number of sites and parameters, without and with a tenth of the sites lost before they
/// uploaded, and one with packed updates. Sites and coordinator work on all cores; network and disk are left out. All vectors
/// are in memory: the largest row of the defaults needs five gigabytes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct SecaggArgs {
    /// Numbers of sites
    #[arg(long, value_delimiter = ',', default_value = "4,10,32,100", value_parser = clap::value_parser!(u8).range(3..=200))]
    sites: Vec<u8>,
    /// Numbers of parameters
    #[arg(long, value_delimiter = ',', default_value = "1e5,1e6,1e7", value_parser = parameters)]
    parameters: Vec<u32>,
}

/// The row that the last line repeats.
const REFERENCE: Case = Case { sites: 10, parameters: 10_000_000, lost: 0, ring: Ring::Words };

/// Reads `1e7` as well as `10000000`.
fn parameters(text: &str) -> Result<u32, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1.0..=1e9).contains(&number) && number.fract() == 0.0 {
        Ok(number as u32)
    } else {
        Err("a whole number between 1 and 1e9 is wanted".to_owned())
    }
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct Final {
    #[serde(rename = "final")]
    is_final: bool,
    /// Rate of masking, ten masks fused with their sums, against the key stream's.
    mask_ratio: f64,
    /// Rate of adding a masked vector against `a[i] += b[i]`.
    accumulate_ratio: f64,
    /// Rate of clipped floats to integers against `a[i] += b[i]`.
    quantise_ratio: f64,
    /// Rate of integers to floats against `a[i] += b[i]`.
    dequantise_ratio: f64,
    /// Rate of an upload through gRPC against one through TLS alone.
    transport_ratio: f64,
    /// One site's time with ten sites and ten million parameters.
    client_seconds: f64,
    /// The coordinator's time with the same.
    coordinator_seconds: f64,
}

/// Measures and prints.
pub(super) fn run(args: &SecaggArgs, output: Output) -> anyhow::Result<()> {
    let progress = |text: &str| {
        if !output.json && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{text}");
        }
    };
    progress("transport");
    let transport = transport::measure()?;
    progress("kernels");
    let kernels = kernels::measure()?;
    progress("");
    if output.json {
        for kernel in &kernels.rows {
            output.show(kernel, |_| String::new())?;
        }
    } else {
        println!("{}\n", kernel_table(&kernels.rows));
    }

    let mut cases = Vec::new();
    for parameters in &args.parameters {
        for sites in &args.sites {
            let sites = usize::from(*sites);
            for lost in [0, sites / 10] {
                let case = Case { sites, parameters: *parameters, lost, ring: Ring::Words };
                if !cases.contains(&case) {
                    cases.push(case);
                }
            }
        }
    }
    // The same vector in 16 bits an entry.
    cases.push(Case { ring: Ring::Packed, ..REFERENCE });
    let mut reference = None;
    let mut rows = Vec::new();
    for case in &cases {
        let Case { sites, parameters, lost, ring } = case;
        progress(&format!("{sites} sites, {parameters} parameters, {lost} lost, {} bits", ring.bits()));
        let row = attempt::measure(*case, kernels.floors)?;
        if *case == REFERENCE {
            reference = Some(row.clone());
        }
        if output.json {
            output.show(&row, |_| String::new())?;
        }
        rows.push(row);
    }
    let reference = match reference {
        Some(row) => row,
        None => attempt::measure(REFERENCE, kernels.floors)?,
    };
    progress("");
    if !output.json {
        println!("{}\n", attempt_table(&rows));
    }
    let last = Final {
        is_final: true,
        mask_ratio: kernels.mask,
        accumulate_ratio: kernels.accumulate,
        quantise_ratio: kernels.quantise,
        dequantise_ratio: kernels.dequantise,
        transport_ratio: transport.ratio(),
        client_seconds: reference.client_seconds,
        coordinator_seconds: reference.coordinator_seconds,
    };
    output.show(&last, |last| {
        format!(
            "masking {:.0} % of the key stream, accumulating {:.0} % of a plain sum, an upload {:.0} % of bare TLS \
             ({:.2} GB/s); ten sites with ten million parameters: {:.3} s a site, {:.3} s at the coordinator",
            100.0 * last.mask_ratio,
            100.0 * last.accumulate_ratio,
            100.0 * last.transport_ratio,
            0.04 / transport.grpc,
            last.client_seconds,
            last.coordinator_seconds,
        )
    })?;
    Ok(())
}

fn kernel_table(rows: &[Kernel]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            vec![
                row.kernel.to_owned(),
                format!("{:.3}", row.nanoseconds),
                format!("{:.1}", row.gigabytes_per_second),
                row.floor.unwrap_or("-").to_owned(),
                row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            ]
        })
        .collect();
    table(&["kernel", "ns a word", "GB/s", "floor", "ratio"], &rows)
}

fn attempt_table(rows: &[Attempt]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            vec![
                row.ring_bits.to_string(),
                row.sites.to_string(),
                row.parameters.to_string(),
                row.lost.to_string(),
                format!("{:.4}", row.client_seconds),
                format!("{:.1}", row.client_seconds / row.client_floor_seconds),
                format!("{:.4}", row.coordinator_seconds),
                format!("{:.1}", row.coordinator_seconds / row.coordinator_floor_seconds),
                format!("{:.4}", row.setup_seconds),
                bytes(row.bytes_up),
                format!("{:.3}", row.words_per_parameter),
                row.coordinator_bytes_over_sum.map_or_else(|| "-".to_owned(), bytes),
            ]
        })
        .collect();
    let header = [
        "ring",
        "sites",
        "parameters",
        "lost",
        "site s",
        "/ floor",
        "coordinator s",
        "/ floor",
        "setup s",
        "up",
        "words",
        "memory + sum",
    ];
    table(&header, &rows)
}
