/** Children that keep to nothing. Each ends in a sentence with a code, or by itself; nothing of it is left here, and this process goes on. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type PagedProcess, type SpawnPagedOptions, spawnPaged } from 'pagefault/guests';
import { type PageStore, zero } from 'pagefault/stores';
import { openFds, until } from '../helpers/descriptors.js';
import { fillStored, guestProgram } from '../helpers/guest-program.js';

const PAGE = 4096;
const hostile = guestProgram('guest-hostile');

const store: PageStore = {
  byteLength: 16 * PAGE,
  read(offset, into) {
    fillStored(offset, into);
    return into.byteLength;
  },
};

interface Seen {
  readonly process: PagedProcess;
  /** Of `ready`, of the failure, and of what was refused. */
  readonly sentences: string;
  readonly ended: string;
}

/** The longest time that this thread did not come round its loop. */
async function watchLoop<T>(job: Promise<T>): Promise<[T, number]> {
  let longest = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 5);
  try {
    return [await job, longest];
  } finally {
    clearInterval(timer);
  }
}

/** Until it ends: it is killed so long after something was known of it, or once the sentence was heard. */
async function see(
  args: readonly string[],
  options: Partial<SpawnPagedOptions> = {},
  lasts: number | RegExp = 3000,
): Promise<Seen> {
  const process_ = await spawnPaged(hostile, args, { store, stdio: 'ignore', handshakeTimeoutMs: 60_000, ...options });
  const sentences: string[] = [];
  let killer: NodeJS.Timeout | undefined;
  const heard = (): void => {
    const done = typeof lasts === 'number' || lasts.test(sentences.join('\n'));
    if (done) killer ??= setTimeout(() => process_.kill('SIGKILL'), typeof lasts === 'number' ? lasts : 0);
  };
  const note = (error: Error): void => {
    sentences.push(`${(error as { code?: string }).code}: ${error.message}`);
    heard();
  };
  process_.on('refused', note);
  process_.on('error', note);
  process_.ready.then(heard, note);
  const [status, longest] = await watchLoop(process_.exited);
  clearTimeout(killer);
  assert.ok(longest < 10_000, `the loop stood still for ${longest} ms`);
  await sleep(0);
  return { process: process_, sentences: sentences.join('\n'), ended: JSON.stringify(status) };
}

async function leavesNothing(job: () => Promise<void>): Promise<void> {
  await see(['gone']);
  const before = openFds();
  await job();
  await until(() => openFds() <= before, 20_000);
}

const messages: [string[], RegExp][] = [
  [['random', '1'], /HANDSHAKE: process \d+ sent a message that is none/],
  [['dribble'], /HANDSHAKE: the memory of process \d+ is refused: its pages have 3 bytes/],
  [['flood'], /HANDSHAKE: the memory of process \d+ is refused/],
  [['answers'], /HANDSHAKE: process \d+ answered what it was not asked/],
  [['fds'], /HANDSHAKE: process \d+ sent descriptors without messages/],
  [['nofd'], /HANDSHAKE: process \d+ handed over memory without a descriptor/],
  [['pipe'], /HANDSHAKE: .* refused: .*userfaultfd/],
  [['file'], /HANDSHAKE: .* refused: .*userfaultfd/],
  [['unshaken'], /its handshake was not made/],
  [['blocking'], /HANDSHAKE: .* refused: its userfaultfd blocks/],
  [['wraps'], /HANDSHAKE: .* refused: 65536 bytes at 0xf+000/],
  [['huge'], /HANDSHAKE: .* refused/],
  [['bigpage'], /HANDSHAKE: .* refused: its pages have 1073741824 bytes/],
  [['overlaps'], /HANDSHAKE: .* refused: it overlaps/],
];

for (const [args, sentence] of messages) {
  test(`a child that is hostile by ${args[0]}`, { timeout: 90_000 }, async () => {
    await leavesNothing(async () => {
      const { sentences, ended } = await see(args, {}, sentence);
      // One that ends at once may have ended before what it said is read; then that is the sentence.
      if (!/exited/.test(ended) || !/before it handed over any memory/.test(sentences))
        assert.match(sentences, sentence);
      assert.match(ended, /killed|exited/);
    });
  });
}

for (const strategy of ['on-demand', 'eager'] as const) {
  test(`a child that reads none of the answers it asks for, ${strategy}`, { timeout: 90_000 }, async () => {
    await leavesNothing(async () => {
      const { process: ended } = await see(['many'], { strategy }, 20_000);
      assert.match(String(ended.failure?.message), /does not read what its pager says/);
    });
  });
}

test('messages cut at each byte are the end of the child and no more', { timeout: 180_000 }, async () => {
  await leavesNothing(async () => {
    for (let at = 0; at < 64; at += 3) {
      const { sentences } = await see(['cut', String(at)]);
      assert.match(sentences, /before it handed over any memory/);
    }
  });
});

test('memory that is nowhere is served to nobody', { timeout: 90_000 }, async () => {
  for (const strategy of ['on-demand', 'eager', 'read-ahead'] as const) {
    const { process: ended } = await see(['nowhere'], { strategy }, 300);
    assert.equal(ended.stats().residentBytes, 0);
  }
});

test('a userfaultfd that is made blocking later does not stop this process', { timeout: 90_000 }, async () => {
  await leavesNothing(async () => {
    const { process: ended } = await see(['later-blocking']);
    assert.match(String(ended.failure?.message), /made it blocking/);
  });
});

test('one that is closed or unregistered later harms the child only', { timeout: 90_000 }, async () => {
  await leavesNothing(async () => {
    assert.match((await see(['closes'], {}, 500)).ended, /exited|killed/);
    assert.match((await see(['unregisters'], {}, 500)).ended, /killed/);
  });
});

test('a child that does not take pages away, or hung up before, is killed', { timeout: 90_000 }, async () => {
  const options = { strategy: 'budget', resident: PAGE, faultTimeoutMs: 300 } as const;
  await leavesNothing(async () => {
    const never = await see(['never-drops'], options);
    assert.match(String(never.process.failure?.message), /did not take pages away within 300 ms/);
    const hungUp = await see(['hangs-up'], options);
    assert.match(String(hungUp.process.failure?.message), /has closed its connection/);
  });
});

test('a program that becomes another one goes on unpaged', { timeout: 90_000 }, async () => {
  await leavesNothing(async () => {
    for (const mode of ['exec', 'fork']) {
      const { process: process_, ended } = await see([mode], { strategy: 'budget', resident: PAGE });
      assert.equal(ended, '{"state":"exited","code":0}');
      assert.equal(process_.failure, undefined);
    }
  });
});

test('a child that dies at any moment is an ended child', { timeout: 120_000 }, async () => {
  const program = guestProgram();
  await leavesNothing(async () => {
    for (let i = 0; i < 100; i++) {
      const strategy = (['on-demand', 'budget', 'eager'] as const)[i % 3] ?? 'budget';
      const args = ['churn', '3', '100000', String(i)];
      const process_ = await spawnPaged(program, args, { store, strategy, resident: PAGE, stdio: 'ignore' });
      const end = performance.now() + Math.random() * 12;
      while (performance.now() < end) await new Promise((resolve) => setImmediate(resolve));
      process_.kill('SIGKILL');
      await process_.exited;
      assert.equal(process_.failure, undefined);
    }
  });
});

test('a stopped child is not late: it takes pages away when it goes on', { timeout: 120_000 }, async () => {
  const args = ['churn', '2', '30000', '5'];
  const options = { store, strategy: 'budget', resident: PAGE, faultTimeoutMs: 2000, stdio: 'ignore' } as const;
  const process_ = await spawnPaged(guestProgram(), args, options);
  await process_.ready;
  for (let i = 0; i < 2; i++) {
    await sleep(20);
    process_.kill('SIGSTOP');
    await sleep(2500);
    process_.kill('SIGCONT');
  }
  assert.deepEqual(await process_.exited, { state: 'exited', code: 0 });
  assert.equal(process_.failure, undefined);
});

test('a store that answers after the child has died, or never, keeps nobody', { timeout: 90_000 }, async () => {
  const never: PageStore = { byteLength: 16 * PAGE, read: () => new Promise<number>(() => {}) };
  await leavesNothing(async () => {
    const process_ = await spawnPaged(guestProgram(), ['read'], { store: never, stdio: 'ignore' });
    await process_.ready;
    await sleep(30);
    await process_.close();
  });
  assert.equal(process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length < 3, true);
});

test('many threads in a budget of nothing come on', { timeout: 180_000 }, async () => {
  const options = { store: zero(256 * PAGE), strategy: 'budget', resident: 1, stdio: 'ignore' } as const;
  const many = await spawnPaged(
    guestProgram(),
    ['touch', ...Array.from({ length: 256 }, (_, i) => String(i))],
    options,
  );
  assert.deepEqual(await many.exited, { state: 'exited', code: 0 });
  const program = guestProgram();
  const churn = await spawnPaged(program, ['churn', '64', '300', '1'], {
    store: { ...store, byteLength: 512 * PAGE },
    strategy: 'budget',
    resident: 1,
    stdio: 'ignore',
  });
  assert.deepEqual(await churn.exited, { state: 'exited', code: 0 });
});
