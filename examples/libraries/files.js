// The files that ../libraries.js hands to libraries: 131,072 numbers each, i / 2 in place i, in the format of the library.
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { encode } from '@msgpack/msgpack';
import * as arrow from 'apache-arrow';
import { Builder } from 'flatbuffers';
import Flatbush from 'flatbush';
import { File, ready } from 'h5wasm';
import { parquetWriteBuffer } from 'hyparquet-writer';

export const numbers = Float64Array.from({ length: 2 ** 17 }, (_, i) => i / 2);
const numberBytes = new Uint8Array(numbers.buffer);

const table = arrow.tableFromArrays({ numbers, again: numbers.slice() }); // a copy: Arrow 21.2 writes the memory that two columns share once, and cannot read that
export const arrowFile = arrow.tableToIPC(table, 'file');
export const arrowInTwo = arrow.tableToIPC(new arrow.Table([...table.batches, ...table.batches]), 'file');

const ZSTD = 1;
const header = [0x28, 0xb5, 0x2f, 0xfd, 0, 0];
// Stands in for zstd, which not every Node.js has.
arrow.compressionRegistry.set(ZSTD, {
  encode: (bytes) => Buffer.concat([Buffer.from(header), deflateRawSync(bytes, { level: 1 })]),
  decode: (bytes) => inflateRawSync(bytes.subarray(header.length)),
});
export const arrowCompressed = arrow.tableToIPC(table, 'file', ZSTD);

export const parquetFile = new Uint8Array(
  parquetWriteBuffer({
    codec: 'UNCOMPRESSED',
    columnData: [
      { name: 'numbers', data: numbers },
      { name: 'again', data: numbers },
    ],
  }),
);

export const packed = encode({ name: 'numbers', numbers: numberBytes });

function flatBuffer() {
  const builder = new Builder(2 ** 21);
  const vector = builder.createByteVector(numberBytes);
  builder.startObject(1);
  builder.addFieldOffset(0, vector, 0);
  builder.finish(builder.endObject());
  return builder.asUint8Array();
}
export const flatFile = flatBuffer();

function tree() {
  const index = new Flatbush(numbers.length / 4);
  for (let i = 0; i < index.numItems; i++) index.add(numbers[i], i % 100);
  index.finish();
  return new Uint8Array(index.data);
}
export const treeFile = tree();

const { FS } = await ready;

function hdf5() {
  const file = new File('numbers.h5', 'w');
  file.create_dataset({ name: 'numbers', data: numbers });
  file.close();
  const bytes = FS.readFile('numbers.h5');
  FS.unlink('numbers.h5');
  return bytes;
}
export const hdf5File = hdf5();

// A database of MaxMind's format: a tree of the addresses' bits, and data in which each /16 of them has the number it begins with.
const control = (type, size) => (type < 8 ? [(type << 5) | size] : [size, type - 7]);
const text = (string) => [...control(2, string.length), ...Buffer.from(string)];
const uint32 = (number) => [...control(6, 4), ...[24, 16, 8, 0].map((shift) => (number >>> shift) & 255)];

function addresses() {
  const nodes = 2 ** 16 - 1; // node n has the children 2n + 1 and 2n + 2
  const records = new DataView(new ArrayBuffer(nodes * 8 + 16));
  for (let child = 1; child <= 2 * nodes; child++) {
    const leaf = child - nodes;
    records.setUint32((child - 1) * 4, leaf < 0 ? child : nodes + 16 + leaf * 5);
  }
  const data = Array.from({ length: nodes + 1 }, (_, leaf) => uint32(leaf)).flat();
  const metadata = [
    Buffer.from('abcdef', 'hex'),
    text('MaxMind.com').slice(1),
    control(7, 4),
    [...text('node_count'), ...uint32(nodes)],
    [...text('record_size'), ...uint32(32)],
    [...text('ip_version'), ...uint32(4)],
    [...text('build_epoch'), ...uint32(0)],
  ];
  return Buffer.concat([
    new Uint8Array(records.buffer),
    Uint8Array.from(data),
    Uint8Array.from(metadata.flatMap((part) => [...part])),
  ]);
}
export const addressFile = addresses();
