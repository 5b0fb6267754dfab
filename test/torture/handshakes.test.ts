/**
 * A million handshakes of Firecracker's that are wrong in a million ways (PAGEFAULT_HANDSHAKES=1000000; five thousand otherwise): each is either refused in a sentence,
 * or understood as memory that can be.
 */

import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { test } from 'node:test';
import { serveFirecracker } from 'pagefault/guests';
import { Memfd, Uffd, UnixSocket } from 'pagefault/kernel';
import { HandshakeReader, MOST_BYTES, Refused } from '#dist/guests/firecracker/reader.js';
import { checkAgainst, type Handshake, parseHandshake } from '#dist/guests/firecracker/regions.js';
import { Random } from '../fuzz/random.js';
import { openFds, until } from '../helpers/descriptors.js';
import { freshPath, memoryFile, SimulatedVm } from '../helpers/firecracker-vm.js';

/** Over sockets, with descriptors, so many times fewer. */
const PER_CONNECTION = 20;
const AT_ONCE = 50;
const MIB = 2 ** 20;
const COUNT = Number(process.env['PAGEFAULT_HANDSHAKES'] ?? 5_000);
const PAGE = 4096;
const HUGE = 2 ** 21;
const KEYS = ['base_host_virt_addr', 'size', 'offset', 'page_size', 'page_size_kib', 'is_guest_memfd', '__proto__', ''];
const VALUES = [
  '0',
  '-1',
  '1',
  '4096',
  '2097152',
  '1e308',
  '9007199254740993',
  '0.5',
  '"4096"',
  'null',
  'true',
  '[]',
  '{}',
  '"\\u0000"',
  '18446744073709551615',
];
const LETTERS = '[]{}",:\\0123456789eE+-.nulltruefalse \n\u0000\u00ff';

/** What a VM would send. */
function honest(random: Random): string {
  const pageSize = random.below(4) === 0 ? HUGE : PAGE;
  let address = 2 ** 40 + random.below(2 ** 20) * HUGE;
  let offset = 0;
  const regions = Array.from({ length: 1 + random.below(4) }, () => {
    const size = (1 + random.below(64)) * pageSize;
    const region: Record<string, unknown> = { base_host_virt_addr: address, size, offset };
    if (pageSize === HUGE || random.below(2) === 0) region['page_size_kib'] = pageSize;
    if (random.below(2) === 0) region['page_size'] = pageSize;
    offset += size;
    address += size + random.below(3) * pageSize;
    return region;
  });
  return JSON.stringify(regions);
}

/** What somebody else would. */
function spoilt(random: Random, text: string): string {
  const at = random.below(text.length + 1);
  const pick = <T>(from: ArrayLike<T>): T => from[random.below(from.length)] as T;
  switch (random.below(9)) {
    case 0:
      return text.slice(0, at);
    case 1:
      return text.slice(0, at) + pick(LETTERS) + text.slice(at);
    case 2:
      return text.slice(0, at) + text.slice(at + 1 + random.below(8));
    case 3:
      return text.replace(/:\d+/, `:${pick(VALUES)}`);
    case 4:
      return text.replaceAll(/"[a-z_]+"/g, (key) => (random.below(4) === 0 ? JSON.stringify(pick(KEYS)) : key));
    case 5:
      return text + text.slice(at);
    case 6:
      return text.replaceAll(/\d+/g, (digits) =>
        String(Number(digits) + (random.below(6) === 0 ? random.below(9000) - 4500 : 0)),
      );
    case 7:
      return `${'['.repeat(random.below(300))}${text}${' '.repeat(random.below(20) === 0 ? random.below(2 * MOST_BYTES) : 3)}`;
    default:
      return Array.from({ length: random.below(100) }, () => pick(LETTERS)).join('');
  }
}

/** What is true of everything that is let in. */
function check({ regions, pageSize }: Handshake): void {
  assert.ok(pageSize === PAGE || pageSize === HUGE);
  assert.ok(regions.length > 0);
  const places = [...regions].sort((a, b) => (a.address < b.address ? -1 : 1));
  for (const [i, { address, byteLength, offset }] of places.entries()) {
    assert.ok(byteLength > 0 && offset >= 0 && byteLength % pageSize === 0 && offset % pageSize === 0);
    assert.equal(address % BigInt(pageSize), 0n);
    assert.ok(address > 0n && address + BigInt(byteLength) <= 2n ** 56n);
    const next = places[i + 1];
    assert.ok(next === undefined || address + BigInt(byteLength) <= next.address);
  }
}

/** Sends it in pieces. How many handshakes were understood; a refusal ends it, as it does a connection. */
function send(random: Random, text: string): { understood: number; refused?: string } {
  const reader = new HandshakeReader();
  const bytes = Buffer.from(text, random.below(2) === 0 ? 'utf8' : 'latin1');
  let understood = 0;
  try {
    for (let at = 0; at < bytes.byteLength; ) {
      const step = random.below(3) === 0 ? 1 + random.below(40) : bytes.byteLength;
      reader.push(bytes.subarray(at, at + step), at === 0 ? [3] : []);
      at += step;
      for (let raw = reader.next(() => true); raw !== undefined; raw = reader.next(() => true)) {
        const handshake = parseHandshake(raw.text, PAGE);
        check(handshake);
        const length = handshake.regions.reduce((sum, { byteLength }) => sum + byteLength, 0);
        checkAgainst(handshake, random.below(8) === 0 ? length + PAGE : length);
        understood += 1;
      }
    }
    return { understood };
  } catch (error) {
    assert.ok(error instanceof Refused, String(error instanceof Error ? error.stack : error));
    assert.ok(error.message.length > 8 && error.message.length < 300, error.message);
    return { understood, refused: error.message };
  }
}

test(`${COUNT} handshakes that are wrong in some way`, { timeout: 3_600_000 }, () => {
  const seed = Number(process.env['PAGEFAULT_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
  const random = new Random(seed);
  const sentences = new Set<string>();
  let understood = 0;
  for (let i = 0; i < COUNT; i++) {
    const text = honest(random);
    const sent = random.below(10) === 0 ? text : spoilt(random, text);
    try {
      const seen = send(random, sent);
      understood += seen.understood;
      if (seen.refused !== undefined) sentences.add(seen.refused.replaceAll(/'.*'|0x[0-9a-f]+|[\d.e+]+/g, '#'));
    } catch (error) {
      throw new Error(`seed ${seed}, handshake ${i}: ${JSON.stringify(sent.slice(0, 500))}`, { cause: error });
    }
  }
  assert.ok(understood > COUNT / 20, `${understood} were understood`);
  assert.ok(sentences.size > 15, [...sentences].join('\n'));
});

/** Connects, sends it in pieces with descriptors of any kind, and hangs up, now or later. */
function bother(random: Random, path: string, fds: readonly number[]): UnixSocket {
  const socket = UnixSocket.connect(path);
  const bytes = Buffer.from(random.below(4) === 0 ? honest(random) : spoilt(random, honest(random)));
  const sent = Array.from({ length: random.below(5) }, () => random.pick(fds));
  try {
    for (let at = 0; at < bytes.byteLength; ) {
      const step = random.below(2) === 0 ? bytes.byteLength : 1 + random.below(100);
      const passed = at === 0 || random.below(50) === 0 ? sent : [];
      const done = socket.send(bytes.subarray(at, at + step), passed);
      if (done === 0) break; // it has enough
      at += done;
    }
  } catch {
    // it has hung up
  }
  return socket;
}

test('the same over sockets, with descriptors: all are refused, none is left, and a VM beside is served', {
  timeout: 3_600_000,
}, async () => {
  const seed = Number(process.env['PAGEFAULT_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
  const random = new Random(seed);
  const server = await serveFirecracker({ socket: freshPath(), memory: memoryFile(MIB), handshakeTimeoutMs: 200 });
  let refused = 0;
  server.on('refused', (error) => {
    assert.match(error.message, /^the handshake of process \d+ is refused: ./);
    refused += 1;
  });
  const vm = await SimulatedVm.ready(server.socket, [], 3_600_000);
  await vm.must('verify 0 4096');
  using uffd = Uffd.open({ userModeOnly: true });
  using memfd = Memfd.create('fuzz', { byteLength: 4096 });
  const file = openSync('/dev/null', 'r');
  const before = openFds();
  const connections = Math.ceil(COUNT / PER_CONNECTION);
  for (let done = 0; done < connections; done += AT_ONCE) {
    const sockets = Array.from({ length: AT_ONCE }, () => bother(random, server.socket, [uffd.fd, memfd.fd, file]));
    if (random.below(2) === 0) for (const socket of sockets) socket.close();
    await until(() => refused === done + AT_ONCE, 60_000);
    for (const socket of sockets) socket.close();
    await until(() => openFds() <= before, 20_000);
    await vm.must(`verify ${4096 * random.below(255)} 4096`);
  }
  assert.equal(server.guests.size, 1, `seed ${seed}`);
  await vm.must(`verify 0 ${MIB} 2`);
  await vm.exit();
  closeSync(file);
  await server.close();
});
