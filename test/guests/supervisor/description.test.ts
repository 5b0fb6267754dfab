/** What the next daemon is told of a guest: everything in it is checked, since it comes from a process that is dead. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Described, describeGuest, readDescription } from 'pagefault/guests';
import { decodeBody, decodeHead, encodeMessage, HEAD_BYTES, MOST_BYTES } from '#dist/guests/supervisor/protocol.js';

const guest: Described = {
  name: 'vm',
  regions: [
    { address: 0x7f00_0000_0000n, byteLength: 2 ** 21, offset: 0 },
    { address: 0xffff_ffff_ffff_f000n, byteLength: 4096, offset: 2 ** 21 },
  ],
  pageSize: 4096,
  snapshot: 'ab'.repeat(32),
  onFailure: 'park',
  faultTimeoutMs: 5000,
  record: true,
};

test('a description is plain JSON and comes back as it was', () => {
  assert.deepEqual(readDescription(JSON.parse(JSON.stringify(describeGuest(guest)))), guest);
  const { faultTimeoutMs: _ms, record: _record, ...least } = guest;
  assert.deepEqual(readDescription(JSON.parse(JSON.stringify(describeGuest(least)))), least);
});

test('a description that is wrong is refused in a sentence that says what is', () => {
  const right = describeGuest(guest);
  const region = { address: '0x1000', byteLength: 4096, offset: 0 };
  const wrong: [unknown, RegExp][] = [
    [undefined, /is no object/],
    ['text', /is no object/],
    [{ ...right, version: 2 }, /is of version 2, not 1/],
    [{ ...right, name: 1 }, /has no name/],
    [{ ...right, regions: [] }, /has no regions/],
    [{ ...right, regions: [1] }, /a region that is no object/],
    [{ ...right, regions: [{ ...region, address: 4096 }] }, /without an address/],
    [{ ...right, regions: [{ ...region, address: '-0x1' }] }, /without an address/],
    [{ ...right, regions: [{ ...region, byteLength: 0 }] }, /without a size/],
    [{ ...right, regions: [{ ...region, byteLength: 1.5 }] }, /without a size/],
    [{ ...right, regions: [{ ...region, offset: -1 }] }, /without a size or an offset/],
    [
      { ...right, regions: [{ ...region, address: '0xfffffffffffff000', byteLength: 8192 }] },
      /beyond the last address/,
    ],
    [{ ...right, pageSize: 5000 }, /no page size/],
    [{ ...right, snapshot: 'AB' }, /names no snapshot/],
    [{ ...right, onFailure: 'zero' }, /neither 'kill' nor 'park'/],
  ];
  for (const [value, message] of wrong) {
    assert.throws(() => readDescription(value), { code: 'ERR_PAGEFAULT_SUPERVISOR', message });
  }
});

test('a message is a head and JSON, and nothing else is one', () => {
  const bytes = encodeMessage({ kind: 'hold', body: { guest: { name: 'ä' } } }, 3);
  const head = decodeHead(bytes.subarray(0, HEAD_BYTES));
  assert.deepEqual(head, { kind: 'hold', byteLength: bytes.byteLength - HEAD_BYTES, fds: 3 });
  assert.deepEqual(decodeBody(bytes.subarray(HEAD_BYTES)), { guest: { name: 'ä' } });
  const with32 = (at: number, value: number): Uint8Array => {
    const copy = bytes.slice();
    new DataView(copy.buffer).setUint32(at, value, true);
    return copy;
  };
  assert.match(String(decodeHead(with32(0, 1))), /magic number/);
  for (const kind of [0, 19, 2 ** 32 - 1]) assert.match(String(decodeHead(with32(4, kind))), /no message of kind/);
  assert.match(String(decodeHead(with32(8, MOST_BYTES + 1))), /longer than/);
  assert.match(String(decodeHead(with32(12, 4))), /more than 3/);
  for (const text of ['', '{', 'null', '[]', '1'])
    assert.match(String(decodeBody(Buffer.from(text))), /no JSON object/);
});
