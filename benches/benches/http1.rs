//! Reading one HTTP response, whole and in pieces.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use probe_engine::prober::http1::{Progress, Response};

const SMALL: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Fri, 27 Nov 2026 03:00:00 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 2\r\nConnection: close\r\n\r\nok";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\
    Connection: close\r\n\r\nf\r\n{\"status\":\"UP\",\r\n12\r\n\"groups\":[\"live\"]}\r\n0\r\n\r\n";

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("http1");
    let mut response = Response::new();
    for (name, bytes, piece) in
        [("small", SMALL, SMALL.len()), ("small_in_pieces", SMALL, 16), ("chunked", CHUNKED, CHUNKED.len())]
    {
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| {
            b.iter(|| {
                response.reset();
                let mut progress = Ok(Progress::NeedMore);
                for piece in black_box(bytes).chunks(piece) {
                    progress = response.feed(piece);
                }
                assert_eq!(progress, Ok(Progress::Done));
                black_box(response.status());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
