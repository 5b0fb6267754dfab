// Apache Arrow over a file that is several times as large as the memory it may use:  node examples/arrow.js [MiB]
// Arrow works on the bytes it is given where they are, so that a column that is not asked for is not read either.
import assert from 'node:assert/strict';
import { createWriteStream, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import * as arrow from 'apache-arrow';
import { map } from 'pagefault';
import { file } from 'pagefault/stores';

const BATCH = 40_000; // rows
const CITIES = ['Lima', 'Oslo', 'Pune'];
const batches = Math.max(2, Math.round((Number(process.argv[2] ?? 8) * 2 ** 20) / (BATCH * 32)));
const rows = batches * BATCH;

// What is in row i. Every tenth measurement is missing.
const cityOf = (i) => (i * 7 + (i >> 4)) % 3;
const celsiusOf = (i) => (i % 10 === 3 ? null : (i % 1013) / 8 - 40);
const noteOf = (i) => `measured ${i}`;

function* writeBatches() {
  const column = (from, of) => Array.from({ length: BATCH }, (_, k) => of(from + k));
  const dictionary = arrow.vectorFromArray(CITIES, new arrow.Utf8()); // one for all batches, as an Arrow file wants it
  const type = new arrow.Dictionary(dictionary.type, new arrow.Int8());
  for (let from = 0; from < rows; from += BATCH) {
    const table = new arrow.Table({
      id: arrow.makeVector(Int32Array.from({ length: BATCH }, (_, k) => from + k)),
      city: arrow.makeVector(arrow.makeData({ type, data: Int8Array.from(column(from, cityOf)), dictionary })),
      celsius: arrow.vectorFromArray(column(from, celsiusOf), new arrow.Float64()),
      note: arrow.vectorFromArray(column(from, noteOf), new arrow.Utf8()),
    });
    yield* table.batches;
  }
}

/** How many measurements above zero there are of each city, and their mean. */
function warmDays(table, afterEachBatch) {
  const found = CITIES.map((name) => ({ name, count: 0, sum: 0 }));
  for (const batch of table.batches) {
    const celsius = batch.getChild('celsius');
    const city = batch.getChild('city').data[0].values; // numbers into CITIES, in place
    for (let i = 0; i < batch.numRows; i++) {
      const degrees = celsius.get(i);
      if (degrees === null || degrees <= 0) continue;
      found[city[i]].count++;
      found[city[i]].sum += degrees;
    }
    afterEachBatch();
  }
  return found;
}

/** The same without Arrow, from what was written. */
function expectedDays() {
  const found = CITIES.map((name) => ({ name, count: 0, sum: 0 }));
  for (let i = 0; i < rows; i++) {
    const degrees = celsiusOf(i);
    if (degrees === null || degrees <= 0) continue;
    found[cityOf(i)].count++;
    found[cityOf(i)].sum += degrees;
  }
  return found;
}

const kib = (bytes) => `${Math.ceil(bytes / 1024)} KiB`;
const folder = mkdtempSync(join(tmpdir(), 'pagefault-'));

async function query(path, shared) {
  const segment = await map(file(path), { resident: '1MiB', shared });
  let most = 0;
  const look = () => {
    most = Math.max(most, segment.stats().budgetBytes);
  };
  try {
    console.log(`\n${shared ? 'SharedArrayBuffer' : 'ArrayBuffer'}, ${segment.backend}:`);
    const table = arrow.tableFromIPC(segment.view(Uint8Array)); // not the buffer, which may be longer if it is shared
    console.log(`opened ${table.numRows} rows by reading ${kib(segment.stats().bytesRead)}`);

    const found = warmDays(table, look);
    assert.deepEqual(found, expectedDays());
    for (const { name, count, sum } of found)
      console.log(`${name}: ${count} above zero, mean ${(sum / count).toFixed(3)}`);
    console.log(`two columns of four were read: ${kib(segment.stats().bytesRead)}`);

    // Single rows, from the last to the first: so many that each page of the file has one.
    for (let i = rows - 1; i >= 0; i -= 199) {
      const { id, city, celsius, note } = table.get(i);
      assert.deepEqual([id, city, celsius, note], [i, CITIES[cityOf(i)], celsiusOf(i), noteOf(i)]);
      look();
    }
    const { faults, bytesRead } = segment.stats();
    console.log(`${faults} faults, ${kib(bytesRead)} read, at most ${kib(most)} in memory at once`);
    assert.ok(most <= 2 ** 20);
  } finally {
    await segment.close();
  }
}

try {
  const path = join(folder, 'measured.arrow');
  await pipeline(writeBatches, arrow.RecordBatchFileWriter.throughNode(), createWriteStream(path));
  const { size } = statSync(path);
  console.log(`an Arrow file of ${kib(size)} in ${batches} batches; readFile would need all ${kib(size)} of memory`);
  await query(path, false);
  await query(path, true);
} finally {
  rmSync(folder, { recursive: true });
}
