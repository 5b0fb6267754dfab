/** The supervisor: holds what guests are made of while daemons come and go. Each daemon here is a connection of this process. */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type HeldGuest, Supervisor } from 'pagefault/guests';
import { type Memfd, type PidFd, type Uffd, UnixListener, UnixSocket } from 'pagefault/kernel';
import { openFds, until } from '../../helpers/descriptors.js';
import { gather, run } from '../../helpers/run.js';
import { descriptorsOf, finish, isZombie, sleeper, socketPath } from '../../helpers/supervised.js';

const TIMEOUT = { timeout: 60_000 };
const main = fileURLToPath(import.meta.resolve('#dist/guests/supervisor/main.js'));

function closeParts(parts: { uffd: Uffd; pidfd: PidFd; states: Memfd }): void {
  parts.uffd.close();
  parts.pidfd.close();
  parts.states.close();
}

test('holds a duplicate of every userfaultfd and pidfd, and ends with the last guest', TIMEOUT, async (t) => {
  const before = openFds();
  const path = socketPath(t);
  const supervisor = await Supervisor.connect(path);
  assert.equal(supervisor.waiting, 0);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const pid = supervisor.pid ?? -1;
  const session = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ')[3];
  assert.equal(Number(session), pid); // its own: no terminal ends it
  const guests = await Promise.all([sleeper(t), sleeper(t), sleeper(t)]);
  const held = await Promise.all(guests.map((guest) => supervisor.hold(guest, { name: `guest ${guest.pid}` })));
  assert.equal(descriptorsOf(pid, 'userfaultfd'), 3);
  assert.equal(descriptorsOf(pid, 'pidfd'), 6); // and one each to watch its end
  for (const guest of guests) guest.close();
  process.kill(guests[0]?.pid ?? -1, 'SIGKILL'); // what has ended is not held
  await until(() => descriptorsOf(pid, 'userfaultfd') === 2 && descriptorsOf(pid, 'pidfd') === 4);
  await held[1]?.drop();
  assert.equal(descriptorsOf(pid, 'pidfd'), 2);
  await finish(supervisor, ...held);
  assert.equal(existsSync(path), false);
  assert.equal(openFds(), before);
});

test(
  'hands the guests of a daemon that is gone to the next one, with all that it was told of them',
  TIMEOUT,
  async (t) => {
    const before = openFds();
    const path = socketPath(t);
    const first = await Supervisor.connect(path);
    const guests = [await sleeper(t), await sleeper(t)];
    for (const guest of guests)
      await first.hold(guest, { name: 'a guest', regions: [{ address: '0x1000' }], n: guest.pid });
    guests[0]?.states.write(5, Uint8Array.of(7));
    const { pid } = first;
    first.close();
    const second = await Supervisor.connect(path);
    assert.equal(second.pid, pid);
    assert.equal(second.waiting, 2);
    let i = 0;
    for await (const orphan of second.orphans()) {
      const guest = guests[i++];
      assert.equal(orphan.pidfd.pid, guest?.pid);
      assert.deepEqual(orphan.guest, { name: 'a guest', regions: [{ address: '0x1000' }], n: guest?.pid });
      assert.ok(orphan.orphanedMs >= 0 && orphan.orphanedMs < 60_000);
      const byte = new Uint8Array(1);
      orphan.states.read(5, byte);
      assert.equal(byte[0], i === 1 ? 7 : 0);
      assert.equal(orphan.uffd.openedBy, 'adopted');
      await orphan.held.serving();
      closeParts(orphan);
      await orphan.held.drop();
    }
    assert.equal(i, 2);
    await finish(second);
    for (const guest of guests) {
      assert.equal(guest.pidfd.isAlive(), true);
      guest.close();
    }
    assert.equal(openFds(), before);
  },
);

test('kills the guests when no daemon comes within the deadline, and ends', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const supervisor = await Supervisor.connect(path, { deadlineMs: 300 });
  const { pid = -1 } = supervisor;
  const guests = [await sleeper(t), await sleeper(t)];
  for (const guest of guests) await supervisor.hold(guest, {});
  await sleep(400); // the deadline is no matter while there is a daemon
  assert.ok(guests.every((guest) => guest.pidfd.isAlive()));
  const at = performance.now();
  supervisor.close();
  for (const guest of guests) assert.deepEqual(await guest.ended, [null, 'SIGKILL']);
  assert.ok(performance.now() - at >= 290);
  await until(() => isZombie(pid));
  assert.equal(existsSync(path), false);
});

test('a daemon that takes guests over and does not serve them lengthens nothing', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const first = await Supervisor.connect(path, { deadlineMs: 5000 });
  const [served, taken] = [await sleeper(t), await sleeper(t)];
  for (const guest of [served, taken]) await first.hold(guest, { pid: guest.pid });
  first.close();
  const second = await Supervisor.connect(path, { deadlineMs: 5000 });
  const held: HeldGuest[] = [];
  for await (const orphan of second.orphans()) {
    closeParts(orphan);
    if (orphan.pidfd.pid !== served.pid) continue;
    await orphan.held.serving();
    held.push(orphan.held);
  }
  assert.deepEqual(await taken.ended, [null, 'SIGKILL']);
  assert.equal(served.pidfd.isAlive(), true);
  await finish(second, ...held);
});

test(
  'a guest that has not handed over its memory dies with its daemon; one that has since does not',
  TIMEOUT,
  async (t) => {
    const path = socketPath(t);
    const first = await Supervisor.connect(path);
    const [early, late] = [await sleeper(t), await sleeper(t)];
    await first.hold({ pidfd: early.pidfd }, { name: 'early' });
    const held = await first.hold({ pidfd: late.pidfd }, { name: 'late' });
    await held.update(late, { name: 'later' });
    first.close();
    assert.deepEqual(await early.ended, [null, 'SIGKILL']);
    const second = await Supervisor.connect(path);
    for await (const orphan of second.orphans()) {
      assert.deepEqual(orphan.guest, { name: 'later' });
      closeParts(orphan);
      await orphan.held.drop();
    }
    await finish(second);
    assert.equal(late.pidfd.isAlive(), true);
  },
);

test('a daemon is not pushed aside; asked to leave, it hands over', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const first = await Supervisor.connect(path);
  const guest = await sleeper(t);
  await first.hold(guest, {});
  await assert.rejects(Supervisor.connect(path), {
    code: 'ERR_PAGEFAULT_SUPERVISOR',
    message: `the supervisor refuses: process ${process.pid} serves the guests; end it, or take over`,
  });
  const stubborn = Supervisor.connect(path, { takeOver: true, deadlineMs: 200 });
  await once(first, 'leave');
  await assert.rejects(stubborn, { message: /has not let go of them within 200 ms/ });
  first.once('leave', () => first.close());
  const second = await Supervisor.connect(path, { takeOver: true });
  assert.equal(second.waiting, 1);
  for await (const orphan of second.orphans()) {
    await orphan.held.serving();
    closeParts(orphan);
    await orphan.held.drop();
  }
  await finish(second);
  assert.equal(guest.pidfd.isAlive(), true);
});

test('a daemon that is asked to leave before it listens for that hears of it when it does', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const first = await Supervisor.connect(path);
  const alive = setInterval(() => {}, 1000); // it does not keep the loop
  t.after(() => clearInterval(alive));
  const next = Supervisor.connect(path, { takeOver: true });
  await sleep(500); // it has been asked
  first.once('leave', () => first.close());
  await finish(await next);
});

test('a supervisor that is killed is replaced, and holds everything again', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const first = await Supervisor.connect(path);
  const guests = [await sleeper(t), await sleeper(t)];
  const held = [await first.hold(guests[0] ?? assert.fail(), { n: 0 })];
  const { pid = -1 } = first;
  const lost = once(first, 'lost');
  const back = once(first, 'back');
  process.kill(pid, 'SIGKILL');
  held.push(await lost.then(() => first.hold(guests[1] ?? assert.fail(), { n: 1 })));
  await back;
  assert.notEqual(first.pid, pid);
  assert.equal(descriptorsOf(first.pid ?? -1, 'userfaultfd'), 2);
  assert.equal(descriptorsOf(first.pid ?? -1, 'pidfd'), 4);
  await finish(first, ...held);
  assert.ok(guests.every((guest) => guest.pidfd.isAlive()));
});

test('closed while the supervisor is being replaced, it ends in peace', TIMEOUT, async (t) => {
  const before = openFds();
  const path = socketPath(t);
  const daemon = await Supervisor.connect(path);
  const alive = setInterval(() => {}, 1000); // it does not keep the loop
  t.after(() => clearInterval(alive));
  const listener = await daemon.listen(`${path}-guests`, () => UnixListener.listen(`${path}-guests`));
  assert.equal(listener.path, `${path}-guests`);
  const lost = once(daemon, 'lost');
  process.kill(daemon.pid ?? -1, 'SIGKILL');
  await lost;
  daemon.close();
  await until(() => openFds() <= before); // the one that is being started has said that it is ready, and is not needed
  await sleep(50); // a promise that nobody waits for would be told of by then
});

test('closed while what it has given is being replaced, it closes each descriptor once', TIMEOUT, async (t) => {
  const before = openFds();
  const daemon = await Supervisor.connect(socketPath(t));
  const guest = await sleeper(t);
  const held = await daemon.hold(guest, { n: 1 });
  const updates = [held.update(guest, { n: 2 }), held.update(guest, { n: 3 })];
  daemon.close();
  for (const update of updates) await assert.rejects(update, { code: 'ERR_PAGEFAULT_SUPERVISOR' });
  guest.close();
  await until(() => openFds() <= before);
});

test('a daemon that is refused changes nothing of the deadline', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const first = await Supervisor.connect(path);
  const guest = await sleeper(t);
  await first.hold(guest, {});
  await assert.rejects(Supervisor.connect(path, { deadlineMs: 1 }), /serves the guests/);
  first.close();
  await sleep(300);
  const second = await Supervisor.connect(path);
  assert.equal(second.waiting, 1);
  for await (const orphan of second.orphans()) {
    closeParts(orphan);
    await orphan.held.drop();
  }
  await finish(second);
  assert.equal(guest.pidfd.isAlive(), true);
});

test('one that has no descriptor left looks again in a while, and not all the time', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const child = spawn(process.execPath, [main, path, '30000'], { stdio: ['ignore', 'ignore', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  const said = gather(child.stderr);
  const tries = (): number => said().split('no more descriptors may be open').length - 1;
  await until(() => existsSync(path));
  const limit = (most: string): void => {
    execFileSync('prlimit', ['--pid', String(child.pid), `--nofile=${most}:`]);
  };
  limit('3');
  const connecting = Supervisor.connect(path);
  await until(() => tries() >= 3);
  await sleep(500);
  assert.ok(tries() < 50, `${tries()} tries`);
  limit('1024');
  (await connecting).close();
});

/** A program in a table of descriptors that is nearly full: `leave(n)` leaves room for so many more. */
const CROWDED = `
  import assert from 'node:assert/strict';
  import { once } from 'node:events';
  import { closeSync, openSync, readdirSync } from 'node:fs';
  const count = () => readdirSync('/proc/self/fd').length;
  const fillers = [];
  const leave = (room) => {
    try {
      for (;;) fillers.push(openSync('/dev/null'));
    } catch {}
    for (let i = 0; i < room; i++) closeSync(fillers.pop());
  };
  const empty = () => fillers.splice(0).forEach((fd) => closeSync(fd));
`;

async function crowded(script: string): Promise<void> {
  const command = 'ulimit -n 100; exec "$0" --input-type=module -e "$1"';
  const ran = await run('sh', ['-c', command, process.execPath, CROWDED + script], { timeoutMs: 30_000 });
  assert.deepEqual([ran.code, ran.signal, ran.stderr], [0, null, '']);
}

test('a daemon without a descriptor left that cannot start a supervisor says so, and goes on', TIMEOUT, async (t) => {
  await crowded(`
    import { Supervisor } from 'pagefault/guests';
    const path = ${JSON.stringify(socketPath(t))};
    leave(3); // to look for one that listens, and no more
    await assert.rejects(Supervisor.connect(path), /the supervisor cannot be started: .*EMFILE/);
    await new Promise((resolve) => setTimeout(resolve, 50));
    empty();
    (await Supervisor.connect(path)).close();
    process.exit(0); // its streams are the supervisor's, too
  `);
});

test('a guest that has no room in the daemon that takes it over leaves no descriptor there', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const first = await Supervisor.connect(path);
  const guest = await sleeper(t);
  await first.hold(guest, {});
  first.close();
  await crowded(`
    import { Supervisor } from 'pagefault/guests';
    const supervisor = await Supervisor.connect(${JSON.stringify(path)});
    const before = count();
    leave(4); // what it is made of comes, and is looked at, and cannot be kept
    await assert.rejects(supervisor.orphans().next(), { message: /no more descriptors may be open/ });
    empty();
    assert.equal(count(), before);
    process.exit(0);
  `);
  const last = await Supervisor.connect(path);
  for await (const orphan of last.orphans()) {
    closeParts(orphan);
    await orphan.held.drop();
  }
  await finish(last);
});

test('of messages that come at once only that is lost whose descriptor has no room', TIMEOUT, async () => {
  await crowded(`
    import { Channel } from '#dist/guests/supervisor/channel.js';
    import { UnixSocket } from 'pagefault/kernel';
    const [near, far] = UnixSocket.pair();
    const heard = [];
    let ended = false;
    const channel = new Channel(near, {
      heard: ({ body }, fds, lost) => heard.push([body.n, fds.length, lost]),
      ended: () => { ended = true; },
    });
    const other = new Channel(far, { heard() {}, ended() {} });
    leave(2);
    for (const n of [1, 2, 3]) other.send({ kind: 'connection', body: { n } }, [0]);
    other.send({ kind: 'done', body: { n: 4 } });
    while (heard.length < 4 && !ended) await new Promise((resolve) => setTimeout(resolve, 1));
    assert.deepEqual([heard, ended], [[[1, 1, false], [2, 1, false], [3, 0, true], [4, 0, false]], false]);
    process.exit(0);
  `);
});

test('told to end, it waits for no next daemon', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const daemon = await Supervisor.connect(path);
  const guest = await sleeper(t);
  await daemon.hold(guest, {});
  for (const signal of ['SIGHUP', 'SIGTERM'] as const) process.kill(daemon.pid ?? -1, signal);
  let refusal = '';
  while (!refusal.includes('was told to end')) {
    // The signal may take its time.
    refusal = await Supervisor.connect(path).then(String, String);
    assert.match(refusal, /told to end|serves the guests/);
  }
  assert.equal(guest.pidfd.isAlive(), true); // its daemon serves it
  daemon.close();
  assert.deepEqual(await guest.ended, [null, 'SIGKILL']);
});

test('garbage ends the connection it came on, and no guest', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const daemon = await Supervisor.connect(path);
  const guest = await sleeper(t);
  const held = await daemon.hold(guest, {});
  const { pid = -1 } = daemon;
  const head = (kind: number, byteLength: number, fds: number): Buffer => {
    const bytes = Buffer.alloc(16);
    bytes.write('PFS1', 'latin1');
    for (const [i, value] of [kind, byteLength, fds].entries()) bytes.writeUInt32LE(value, 4 + 4 * i);
    return bytes;
  };
  const body = (kind: number, text: string): Buffer =>
    Buffer.concat([head(kind, Buffer.byteLength(text), 0), Buffer.from(text)]);
  const garbage: [Buffer, number[]][] = [
    [Buffer.from('GET / HTTP/1.1\r\n\r\n'), []],
    [head(99, 0, 0), []],
    [head(1, 2 ** 31, 0), []],
    [head(4, 2, 2000), []],
    [Buffer.concat([head(4, 2, 3), Buffer.from('{}')]), []], // descriptors that are not there
    [Buffer.alloc(4), [0, 0, 0, 0, 0]], // no message that they belong to
    [body(1, '{'), []],
    [body(1, '[1]'), []],
    [body(1, '{"version":99,"deadlineMs":1}'), []],
    [body(1, '{"version":2,"deadlineMs":-1}'), []],
    [body(6, '{}'), []], // who is not the daemon asks for guests
    [body(13, '{"path":"/x"}'), []], // … or listens, or takes a connection
    [body(16, '{"id":1}'), []],
    [Buffer.concat([head(4, 2, 1), Buffer.from('{}')]), [0]],
    [Buffer.concat([head(9, 8, 0), Buffer.from('{"id":1}')]), []],
    [head(1, 100, 0), []], // and nothing else
  ];
  const count = descriptorsOf(pid, 'pidfd');
  for (const [bytes, fds] of garbage) {
    const socket = UnixSocket.connect(path);
    socket.send(bytes, fds);
    if (bytes.byteLength !== 16 || bytes.readUInt32LE(8) !== 100) await until(() => socket.fill() === 'end');
    socket.close();
  }
  assert.equal(guest.pidfd.isAlive(), true);
  assert.deepEqual([descriptorsOf(pid, 'pidfd'), descriptorsOf(pid, 'userfaultfd')], [count, 1]);
  await assert.rejects(daemon.hold({ pidfd: guest.uffd }, {}), { message: /needs a pidfd, but descriptor/ });
  await finish(daemon, held);
});

test('a path that is a file, no path of a socket, or left behind', TIMEOUT, async (t) => {
  const before = openFds();
  const path = socketPath(t);
  writeFileSync(path, 'precious');
  await assert.rejects(Supervisor.connect(path), {
    code: 'ERR_PAGEFAULT_SUPERVISOR',
    message: /is no socket: choose another path$/,
  });
  assert.equal(readFileSync(path, 'utf8'), 'precious');
  await assert.rejects(Supervisor.connect(`${path}/below`), { code: 'ERR_PAGEFAULT_SUPERVISOR' });
  await assert.rejects(Supervisor.connect(`${path}${'x'.repeat(100)}`), RangeError);
  await assert.rejects(Supervisor.connect(`${path}-x/y`), { message: /its directory does not exist/ });
  await assert.rejects(Supervisor.connect(path, { deadlineMs: 0 }), RangeError);
  await assert.rejects(Supervisor.connect(path, { deadline: 1 } as object), { message: /did you mean 'deadlineMs'\?/ });
  const left = socketPath(t);
  const listener = UnixListener.listen(left);
  const child = spawn(process.execPath, [
    '-e',
    `require('net').createServer().listen(${JSON.stringify(`${left}-2`)}, () => process.kill(process.pid, 'SIGKILL'))`,
  ]);
  await once(child, 'exit');
  const supervisor = await Supervisor.connect(`${left}-2`);
  await finish(supervisor);
  listener.close();
  assert.equal(openFds(), before);
});

test("somebody else's supervisor is given nothing", {
  ...TIMEOUT,
  skip: process.getuid?.() !== 0 && 'only root can be two users',
}, async (t) => {
  const path = socketPath(t);
  const script = `process.setuid(65534); process.umask(0); const s = require('net').createServer(); s.listen(process.argv[1], () => console.log('ok'))`;
  const other = spawn(process.execPath, [
    '-e',
    `const { chmodSync } = require('fs'); chmodSync(require('path').dirname(process.argv[1]), 0o777); ${script}`,
    path,
  ]);
  t.after(() => other.kill('SIGKILL'));
  await once(other.stdout, 'data');
  await assert.rejects(Supervisor.connect(path), {
    code: 'ERR_PAGEFAULT_SUPERVISOR',
    message: `the supervisor at '${path}' belongs to user 65534, and this process to user 0: choose another path`,
  });
  other.kill('SIGKILL');
  await once(other, 'exit');
  await assert.rejects(Supervisor.connect(path), { message: /^the socket at .* belongs to user 65534/ });
  assert.ok(existsSync(path));
});

test('two daemons that start at once have one supervisor', TIMEOUT, async (t) => {
  const path = socketPath(t);
  const both = await Promise.allSettled([Supervisor.connect(path), Supervisor.connect(path)]);
  const connected = both.filter((result) => result.status === 'fulfilled');
  assert.equal(connected.length, 1);
  assert.match(String(both.find((result) => result.status === 'rejected')?.reason), /serves the guests/);
  for (const { value } of connected) await finish(value);
});
