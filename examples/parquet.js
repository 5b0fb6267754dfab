// A query over a Parquet file within a memory limit:  node examples/parquet.js [MiB]
// With hyparquet, because it is pure JavaScript, released every few weeks, and asks for bytes through one function, `slice(start, end)`:
// a segment answers it, and what queries have in common is read once.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parquetMetadataAsync, parquetReadObjects, parquetScan } from 'hyparquet';
import { parquetWriteFile } from 'hyparquet-writer';
import { map } from 'pagefault';
import { file } from 'pagefault/stores';

const GROUP = 10_000; // rows that are stored together, column by column
const SHOPS = ['Lima', 'Oslo', 'Pune'];
const groups = Math.max(10, Math.round((Number(process.argv[2] ?? 4) * 2 ** 20) / (GROUP * 15)));
const rows = groups * GROUP;
const DAYS = { $gte: 200, $lt: 300 };

// What is in row i. Every tenth amount is missing.
const dayOf = (i) => Math.floor((i / rows) * 1000);
const shopOf = (i) => SHOPS[(i * 7 + (i >> 4)) % 3];
const amountOf = (i) => (i % 10 === 3 ? null : Math.imul(i, 0x9e3779b1) / 256);
const noteOf = (i) => `order ${(Math.imul(i, 0x85ebca6b) >>> 0).toString(36)}`;

function write(path) {
  const column = (of) => Array.from({ length: rows }, (_, i) => of(i));
  parquetWriteFile({
    filename: path,
    rowGroupSize: GROUP,
    columnData: [
      { name: 'day', data: column(dayOf), type: 'INT32' },
      { name: 'shop', data: column(shopOf), type: 'STRING' },
      { name: 'amount', data: column(amountOf), type: 'DOUBLE' },
      { name: 'note', data: column(noteOf), type: 'STRING' },
    ],
  });
}

const totals = () => Object.fromEntries(SHOPS.map((shop) => [shop, { count: 0, sum: 0 }]));

function add(found, day, shop, amount) {
  if (day < DAYS.$gte || day >= DAYS.$lt || amount === null || amount === undefined) return;
  found[shop].count++;
  found[shop].sum += amount;
}

/** select shop, count(amount), sum(amount) where day is one of DAYS group by shop */
async function query(source, metadata) {
  const found = totals();
  const columns = ['day', 'shop', 'amount'];
  const scan = await parquetScan({ file: source, metadata, columns, pruningFilter: { day: DAYS } });
  for (const range of scan.ranges) {
    const [day, shop, amount] = await Promise.all(columns.map((column) => scan.readColumn({ column, ...range })));
    for (let i = 0; i < day.length; i++) add(found, day[i], shop[i], amount[i]);
  }
  return found;
}

const kib = (bytes) => `${Math.ceil(bytes / 1024)} KiB`;
const folder = mkdtempSync(join(tmpdir(), 'pagefault-'));
try {
  const path = join(folder, 'orders.parquet');
  write(path);
  const size = statSync(path).size;
  const segment = await map(file(path), { resident: '1MiB' });
  let most = 0;
  const source = {
    byteLength: segment.byteLength,
    async slice(start, end = segment.byteLength) {
      await segment.load(start, end - start); // other work goes on meanwhile, however slow the store is
      most = Math.max(most, segment.stats().budgetBytes);
      return segment.read(start, end - start).buffer; // a copy; a page that cannot be had is an error that hyparquet passes on
    },
  };
  try {
    console.log(`a Parquet file of ${kib(size)}, ${rows} rows; ${segment.backend}, at most 1024 KiB`);
    const metadata = await parquetMetadataAsync(source, { initialFetchSize: 2 ** 16 });
    console.log(`what is where: ${kib(segment.stats().bytesRead)} read`);

    const expected = totals();
    for (let i = 0; i < rows; i++) add(expected, dayOf(i), shopOf(i), amountOf(i));
    for (const when of ['the first time', 'again']) {
      const before = segment.stats().bytesRead;
      assert.deepEqual(await query(source, metadata), expected);
      console.log(
        `a tenth of the days, three columns of four, ${when}: ${kib(segment.stats().bytesRead - before)} read`,
      );
    }
    for (const [shop, { count, sum }] of Object.entries(expected)) console.log(`${shop}: ${count} orders, ${sum}`);

    // All of it, group by group: parquetReadObjects asks at once for everything that it is to return.
    for (let rowStart = 0; rowStart < rows; rowStart += GROUP) {
      const orders = await parquetReadObjects({ file: source, metadata, rowStart, rowEnd: rowStart + GROUP });
      for (const [i, { day, shop, amount, note }] of orders.entries()) {
        const row = rowStart + i;
        const right = day === dayOf(row) && shop === shopOf(row) && (amount ?? null) === amountOf(row);
        assert.ok(right && note === noteOf(row), `row ${row}`);
      }
    }
    const { bytesRead } = segment.stats();
    console.log(`every row is right; ${kib(bytesRead)} read, at most ${kib(most)} in memory at once`);
    assert.ok(most <= 2 ** 20);
  } finally {
    await segment.close();
  }
} finally {
  rmSync(folder, { recursive: true });
}
