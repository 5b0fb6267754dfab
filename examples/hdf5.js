// A library in WebAssembly over a file that is several times as large as its limit:  node examples/hdf5.js [MiB]
// It sees no memory but its own. Yet h5wasm (HDF5), like most that Emscripten makes, reads files of a file system that is
// JavaScript, and there a view of a segment can be a file: what HDF5 reads of it is copied, the rest is never read.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { File, ready } from 'h5wasm';
import { map } from 'pagefault';
import { file } from 'pagefault/stores';

const SIDE = 64;
const days = Math.max(10, Math.round((Number(process.argv[2] ?? 4) * 2 ** 20) / (SIDE * SIDE * 8)));
const celsiusAt = (day, place) => ((day * 31 + place * 7) % 997) / 16 - 20;

const { FS } = await ready;

/** A grid of measurements a day, stored day by day. */
function write(path) {
  const data = Float64Array.from({ length: days * SIDE * SIDE }, (_, i) =>
    celsiusAt(Math.floor(i / SIDE ** 2), i % SIDE ** 2),
  );
  const made = new File('made.h5', 'w');
  made.create_dataset({ name: 'celsius', data, shape: [days, SIDE, SIDE], chunks: [1, SIDE, SIDE] });
  made.close();
  writeFileSync(path, FS.readFile('made.h5'));
  FS.unlink('made.h5');
}

const kib = (bytes) => `${Math.ceil(bytes / 1024)} KiB`;
const folder = mkdtempSync(join(tmpdir(), 'pagefault-'));
try {
  const path = join(folder, 'weather.h5');
  write(path);
  const segment = await map(file(path), { resident: '512KiB' });
  let most = 0;
  const report = (what) => console.log(`${what}: ${kib(segment.stats().bytesRead)} read by then`);
  try {
    console.log(
      `an HDF5 file of ${kib(segment.byteLength)}, ${days} days; ${segment.backend}, at most 512 KiB in memory`,
    );
    const canOwn = true; // the view itself is the file; otherwise it would be copied now
    FS.createDataFile('/', 'weather.h5', segment.view(Uint8Array), true, false, canOwn);
    const weather = new File('weather.h5', 'r');
    const celsius = weather.get('celsius');
    report(`opened, a grid of ${celsius.shape.join(' × ')}`);

    const day = days >> 1;
    assert.deepEqual(
      celsius.slice([
        [day, day + 1],
        [5, 6],
        [7, 8],
      ]),
      Float64Array.of(celsiusAt(day, 5 * SIDE + 7)),
    );
    report(`one number of day ${day}`);

    for (let day = 0; day < days; day++) {
      const grid = celsius.slice([[day, day + 1]]);
      assert.ok(grid.length === SIDE * SIDE && grid.every((degrees, place) => degrees === celsiusAt(day, place)));
      most = Math.max(most, segment.stats().budgetBytes);
    }
    const { faults, bytesRead } = segment.stats();
    console.log(
      `every number is right; ${faults} faults, ${kib(bytesRead)} read, at most ${kib(most)} in memory at once`,
    );
    assert.ok(most <= 2 ** 19);
    weather.close();
    FS.unlink('weather.h5');
  } finally {
    await segment.close();
  }
} finally {
  rmSync(folder, { recursive: true });
}
