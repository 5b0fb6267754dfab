/**
 * A million messages of the page server protocol (PAGEFAULT_PAGE_MESSAGES=1000000; six thousand otherwise), right ones and wrong ones, cut anywhere, from clients that
 * go at any moment; and a tenth as many to servers that lie. PAGEFAULT_SEED says which.
 */

import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { PageSourceError } from 'pagefault';
import { Pager, type PageServer, servePages } from 'pagefault/guests';
import { memory, uds } from 'pagefault/stores';
import { Random } from '../fuzz/random.js';
import { openFds, until } from '../helpers/descriptors.js';
import { type Asked, answerTo, HandClient, HandServer, head } from '../helpers/page-server.js';
import { patternBytes, temporaryPath } from '../helpers/stores.js';

const MESSAGES = Number(process.env['PAGEFAULT_PAGE_MESSAGES'] ?? 6000);
const SEED = Number(process.env['PAGEFAULT_SEED'] ?? Date.now() % 2 ** 32);
const BASE = 0x8000_0000n;
const PAGES = 64;
const LENGTH = PAGES * 4096;
const CLIENTS = 8;

const right = Array.from({ length: PAGES }, (_, page) =>
  answerTo({ address: BASE + BigInt(page) * 4096n, pageSize: 4096n }, BASE),
);

/** A message that is refused. */
function wrongHead(random: Random): Buffer {
  const address = BASE + BigInt(random.below(PAGES)) * 4096n;
  switch (random.below(8)) {
    case 0:
      return head(address + BigInt(random.between(1, 4095)), 4096);
    case 1:
      return head(address, 0);
    case 2:
      return head(address, BigInt(random.between(2 ** 21 + 1, 2 ** 32 - 1)));
    case 3:
      return head(address, (BigInt(random.next()) << 32n) | (1n << 63n));
    case 4:
      return head(BASE - BigInt(random.between(1, 100)) * 4096n, 4096);
    case 5:
      return head(BASE + BigInt(LENGTH + random.below(100) * 4096), 4096);
    case 6:
      return head(address, random.between(1, 4095));
    default:
      return Buffer.from(Array.from({ length: 16 }, () => random.below(256) | 1)); // an odd page size
  }
}

interface Session {
  readonly bytes: Buffer;
  /** What the server must answer. */
  readonly pages: readonly number[];
  readonly messages: number;
  /** It ends with a wrong message, and something behind it. */
  readonly refused: boolean;
}

function makeSession(random: Random): Session {
  const pages = Array.from({ length: random.below(120) }, () => random.below(PAGES));
  const parts = pages.map((page) => head(BASE + BigInt(page) * 4096n, 4096));
  const refused = random.chance(0.5);
  const behind = refused ? random.below(5) : 0;
  if (refused) parts.push(wrongHead(random));
  for (let i = 0; i < behind; i++) parts.push(random.chance(0.5) ? wrongHead(random) : head(BASE, 4096));
  if (!refused && random.chance(0.3)) parts.push(head(BASE, 4096).subarray(0, random.below(16)));
  return { bytes: Buffer.concat(parts), pages, messages: pages.length + (refused ? 1 + behind : 0), refused };
}

/** The bytes in pieces of any size. */
async function sendCut(client: HandClient, bytes: Buffer, random: Random): Promise<void> {
  const most = random.chance(0.1) ? random.pick([1, 20]) : random.pick([300, 4096, 1 << 16]);
  let waits = 0;
  for (let at = 0; at < bytes.length; ) {
    const size = random.between(1, most);
    client.send(bytes.subarray(at, at + size));
    at += size;
    if (++waits < 200 && random.chance(0.2)) await nextTurn();
  }
}

/** One connection; how many were refused. */
async function play(path: string, session: Session, random: Random): Promise<number> {
  const client = await HandClient.connect(path);
  try {
    await sendCut(client, session.bytes, random);
    if (random.chance(0.1)) return 0; // gone, whatever is on its way
    if (!session.refused) client.socket.end();
    for (const page of session.pages) {
      const answer = await client.take(16 + 4096);
      assert.ok(right[page]?.equals(answer), `page ${page}, ${answer.length} bytes`);
    }
    assert.equal((await client.rest()).length, 0, 'nothing more comes');
    return session.refused ? 1 : 0;
  } finally {
    client.close();
  }
}

async function clients(server: PageServer, path: string, random: Random): Promise<void> {
  let messages = 0;
  let refused = 0;
  const one = async (): Promise<void> => {
    while (messages < MESSAGES) {
      const session = makeSession(random);
      messages += session.messages;
      refused += await play(path, session, random);
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, one));
  assert.ok(server.stats().refused >= refused, `${server.stats().refused} of ${refused} are counted`);
  assert.equal(server.stats().failures, 0);
}

test(`a page server answers right messages and refuses wrong ones, however they come (seed ${SEED})`, async () => {
  const before = openFds();
  const path = temporaryPath();
  const server = await servePages(path, memory(patternBytes(LENGTH)), { base: BASE });
  try {
    const quiet = await HandClient.connect(path);
    await clients(server, path, new Random(SEED));
    quiet.send(head(BASE + 4096n, 4096));
    assert.ok(right[1]?.equals(await quiet.take(16 + 4096)), 'who was there all the time is served');
    quiet.close();
    await until(() => server.stats().clients === 0);
  } finally {
    await server.close();
  }
  await until(() => openFds() <= before);
});

/** Something that is not the answer, or the answer and something else. */
function lie(asked: Asked, random: Random): Buffer {
  const answer = answerTo(asked, BASE);
  switch (random.below(6)) {
    case 0: {
      const bit = random.below(128);
      answer[bit >> 3] = (answer[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      return answer;
    }
    case 1:
      return answer.subarray(0, random.below(answer.length)); // and then the end
    case 2:
      // Less than a head, by more than the zeroes at its ends: a whole one answers the next fault of that page, with whatever follows.
      return Buffer.concat([answer, answer.subarray(0, random.between(1, 12))]);
    case 3:
      return Buffer.concat([Buffer.alloc(random.between(1, 40), random.below(256)), answer]);
    case 4:
      return Buffer.concat([answer, answer]);
    default:
      return Buffer.alloc(0);
  }
}

test(`a client takes right answers and never a wrong one, whatever the server says (seed ${SEED})`, async () => {
  const before = openFds();
  const random = new Random(SEED ^ 0x5eed);
  const path = temporaryPath();
  const answer = async (asked: Asked, socket: Socket): Promise<void> => {
    if (socket.destroyed) return;
    const honest = random.chance(0.97);
    const bytes = honest ? answerTo(asked, BASE) : lie(asked, random);
    const cut = random.chance(0.1) ? random.below(bytes.length) : bytes.length;
    socket.write(bytes.subarray(0, cut));
    if (cut < bytes.length) await nextTurn();
    socket.write(bytes.subarray(cut));
    if (bytes.length < 16 + 4096) socket.destroy();
  };
  const server = await HandServer.listen(path, answer);
  const pager = new Pager(uds(path, { base: BASE }), { pollIntervalMs: 10, faultTimeoutMs: 60_000 });
  pager.registerRegion(BASE, BigInt(LENGTH));
  const codes = new Set<string>();
  let asked = 0;
  const one = async (): Promise<void> => {
    while (asked < MESSAGES / 10) {
      asked += 1;
      const page = random.below(PAGES);
      try {
        const bytes = await pager.serveFault(BASE + BigInt(page) * 4096n);
        assert.ok(right[page]?.subarray(16).equals(bytes), `page ${page}`);
      } catch (error) {
        if (!(error instanceof PageSourceError)) throw error;
        codes.add(error.code);
      }
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, one));
  assert.deepEqual([...codes], ['ERR_PAGEFAULT_PROTOCOL'], 'a lost connection is made again');
  pager.requestShutdown();
  await pager.closed;
  await server.close();
  await until(() => openFds() <= before);
});
