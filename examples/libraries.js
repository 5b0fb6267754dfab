// What libraries do with the bytes they are handed: work on them where they are, or copy them?  node examples/libraries.js
// Measured on a plain segment and on a shared one. docs/with-libraries.md has the table, and what follows from it.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decode } from '@msgpack/msgpack';
import { tableFromIPC } from 'apache-arrow';
import { ByteBuffer } from 'flatbuffers';
import Flatbush from 'flatbush';
import { File, ready } from 'h5wasm';
import { parquetReadObjects, parquetScan } from 'hyparquet';
import { Reader } from 'mmdb-lib';
import { map, systemPageSize } from 'pagefault';
import { file } from 'pagefault/stores';
import * as files from './libraries/files.js';

const LAST = files.numbers.length - 1;
const lastOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset).getFloat64(8 * LAST, true);

function fromArrow(segment) {
  const column = tableFromIPC(segment.view(Uint8Array)).getChild('numbers');
  return [column.get(LAST), LAST / 2, column.data[0].values.buffer];
}

function arrowArray(segment) {
  const array = tableFromIPC(segment.view(Uint8Array)).getChild('numbers').toArray();
  return [array[LAST], LAST / 2, array.buffer];
}

function fromFlatbush(segment) {
  const index = Flatbush.from(segment.buffer);
  return [index.neighbors(1000, 0, 1)[0], 2000, index.data];
}

function fromFlatbuffers(segment) {
  const buffer = new ByteBuffer(segment.view(Uint8Array));
  const root = buffer.readInt32(0); // what generated code does to reach a vector of bytes
  const vector = buffer.__vector(root + buffer.__offset(root, 4));
  const bytes = buffer.bytes().subarray(vector);
  return [lastOf(bytes), LAST / 2, bytes.buffer];
}

function fromAddresses(segment) {
  const reader = new Reader(Buffer.from(segment.buffer, 0, segment.byteLength));
  return [reader.get('10.20.30.40'), 10 * 256 + 20, reader.db.buffer];
}

function fromMessagePack(segment) {
  const { numbers } = decode(segment.view(Uint8Array));
  return [lastOf(numbers), LAST / 2, numbers.buffer];
}

const source = (segment) => ({
  byteLength: segment.byteLength,
  slice: (start, end) => segment.read(start, end - start).buffer,
});

async function parquetColumn(segment) {
  const scan = await parquetScan({ file: source(segment), columns: ['numbers'] });
  const column = await scan.readColumn({ column: 'numbers', ...scan.ranges.at(-1) });
  return [column.at(-1), LAST / 2, column.buffer];
}

async function parquetObjects(segment) {
  const objects = await parquetReadObjects({ file: source(segment) });
  return [objects[LAST].numbers, LAST / 2];
}

const { FS } = await ready;

function fromHdf5(segment, canOwn) {
  FS.createDataFile('/', 'data.h5', segment.view(Uint8Array), true, false, canOwn);
  const { buffer } = FS.lookupPath('/data.h5').node.contents;
  const opened = new File('data.h5', 'r');
  const [last] = opened.get('numbers').slice([[LAST, LAST + 1]]);
  opened.close();
  FS.unlink('data.h5');
  return [last, LAST / 2, buffer];
}

// What is called, the file, and the call. It returns what was found, what should have been, and the buffer in which the library has it.
const calls = [
  ['apache-arrow: `tableFromIPC(view)`, `column.get(row)`', files.arrowFile, fromArrow],
  ['apache-arrow: `column.toArray()`, a file of one batch', files.arrowFile, arrowArray],
  ['apache-arrow: `column.toArray()`, a file of two batches', files.arrowInTwo, arrowArray],
  ['apache-arrow: `tableFromIPC(view)`, a compressed file', files.arrowCompressed, fromArrow],
  ['flatbush: `Flatbush.from(segment.buffer)`, `neighbors`', files.treeFile, fromFlatbush],
  ['flatbuffers: `new ByteBuffer(view)`', files.flatFile, fromFlatbuffers],
  [
    'mmdb-lib: `new Reader(Buffer.from(segment.buffer, 0, segment.byteLength))`, `get`',
    files.addressFile,
    fromAddresses,
  ],
  ['@msgpack/msgpack: `decode(view)`, with binary data', files.packed, fromMessagePack],
  [
    'h5wasm: `FS.createDataFile(folder, name, view, true, false, true)`',
    files.hdf5File,
    (segment) => fromHdf5(segment, true),
  ],
  ['h5wasm: the same without the last `true`', files.hdf5File, (segment) => fromHdf5(segment, false)],
  ['hyparquet: `parquetScan`, one column of two', files.parquetFile, parquetColumn],
  ['hyparquet: `parquetReadObjects` of everything', files.parquetFile, parquetObjects],
];

if (Number.parseInt(process.versions.node, 10) >= 24) {
  const sqlite = await import('node:sqlite');
  const sum = (database) => database.prepare('select sum(length(blob)) as bytes from t').get().bytes;
  const database = new sqlite.DatabaseSync(':memory:');
  database.exec('create table t (blob); insert into t values (zeroblob(1000000))');
  const deserialize = (segment) => {
    const copy = new sqlite.DatabaseSync(':memory:');
    copy.deserialize(segment.view(Uint8Array));
    return [sum(copy), 1_000_000];
  };
  calls.push(['node:sqlite: `deserialize(view)`', database.serialize(), deserialize]);
}

function verdict(segment, buffer) {
  const share = segment.stats().loads / Math.ceil(segment.byteLength / systemPageSize());
  const amount = share > 0.95 ? 'all' : share > 0.05 ? 'a part' : 'almost nothing';
  return `${buffer === segment.buffer ? 'in place' : 'copies'}, reads ${amount}`;
}

async function measure(path, shared, call) {
  const segment = await map(file(path), { shared, readahead: 0 });
  try {
    const [found, expected, buffer] = await call(segment);
    assert.equal(found, expected);
    return verdict(segment, buffer);
  } finally {
    await segment.close();
  }
}

const folder = mkdtempSync(join(tmpdir(), 'pagefault-'));
try {
  for (const [name, bytes, call] of calls) {
    const path = join(folder, 'data');
    writeFileSync(path, bytes);
    const result = await measure(path, false, call);
    assert.equal(await measure(path, true, call), result);
    console.log(`| ${name} | ${result} |`);
  }
} finally {
  rmSync(folder, { recursive: true });
}
