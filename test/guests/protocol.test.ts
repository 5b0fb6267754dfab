import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeGuestMessage, encodeAck, encodeDrop, encodeHello, MESSAGE_BYTES } from '#dist/guests/protocol.js';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

test('the pager’s messages have exactly these bytes', () => {
  assert.equal(
    hex(encodeHello({ flags: 3, storeLength: 0x1_0000_0001, pageSize: 4096, answerMs: 30_000 })),
    `5046473101000000${'01000000'}03000000${'0100000001000000'}00100000${'30750000'}${'00'.repeat(32)}`,
  );
  assert.equal(
    hex(encodeAck(0x7fff_1234_5000n, 22, 7)),
    `5046473103000000${'00503412ff7f0000'}16000000${'00'.repeat(40)}07000000`,
  );
  assert.equal(
    hex(encodeDrop(0x7fff_1234_5000n, 8192, 9)),
    `5046473104000000${'00503412ff7f0000'}0020000000000000${'00'.repeat(36)}09000000`,
  );
});

test('a region is understood field by field', () => {
  const bytes = new Uint8Array(MESSAGE_BYTES);
  const data = new DataView(bytes.buffer);
  data.setUint32(0, 0x31474650, true);
  data.setUint32(4, 2, true);
  data.setBigUint64(8, 0x7f00_0000_1000n, true);
  data.setBigUint64(16, 40_960n, true);
  data.setBigUint64(24, 8192n, true);
  data.setUint32(32, 4096, true);
  data.setUint32(36, 5, true);
  data.setBigUint64(40, 0x1ffffn, true);
  data.setBigUint64(48, 0x13cn, true);
  data.setUint32(56, 3, true);
  data.setUint32(60, 1, true);
  assert.deepEqual(decodeGuestMessage(bytes), {
    kind: 'region',
    address: 0x7f00_0000_1000n,
    byteLength: 40_960,
    storeOffset: 8192,
    pageSize: 4096,
    flags: 5,
    features: 0x1ffffn,
    ioctls: 0x13cn,
    memory: 'brk',
    serial: 1,
  });
});

test('what is no message is told in a sentence', () => {
  const bytes = new Uint8Array(MESSAGE_BYTES);
  assert.match(String(decodeGuestMessage(bytes)), /magic/);
  const data = new DataView(bytes.buffer);
  data.setUint32(0, 0x31474650, true);
  for (const kind of [0, 1, 3, 4, 6, 2 ** 32 - 1]) {
    data.setUint32(4, kind, true);
    assert.match(String(decodeGuestMessage(bytes)), new RegExp(`kind is ${kind}`));
  }
  assert.match(String(decodeGuestMessage(bytes.subarray(0, 63))), /63 bytes/);
});
