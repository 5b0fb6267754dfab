/** `pagefault serve firecracker --supervise`: VMs outlive daemons that are killed under load, upgraded, or ended; and not for ever. */

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { GuestEngine, serveFirecracker } from 'pagefault/guests';
import { UnixSocket } from 'pagefault/kernel';
import { isListening, openFds, until } from '../../helpers/descriptors.js';
import { freshPath, memoryFile, SimulatedVm, VmStore, wordAt } from '../../helpers/firecracker-vm.js';
import { root } from '../../helpers/run.js';
import { descriptorsOf } from '../../helpers/supervised.js';

const MIB = 2 ** 20;
const PAGE = 4096;
/** How many daemons are killed. */
const KILLS = Number(process.env['PAGEFAULT_DAEMON_KILLS'] ?? 2);
const TIMEOUT = { timeout: 60_000 + 5000 * KILLS };
const killed = { code: null, signal: 'SIGKILL' };

interface Place {
  readonly socket: string;
  readonly memory: string;
  readonly supervisor: string;
}

function place(byteLength: number): Place {
  return { socket: freshPath(), memory: memoryFile(byteLength), supervisor: freshPath('supervisor') };
}

interface Said {
  readonly type: string;
  readonly pid?: number;
  readonly message?: string;
}

/** A run of the command, which says an object a line. */
class Daemon {
  readonly ended: Promise<[number | null, NodeJS.Signals | null]>;
  readonly said: Said[] = [];
  stderr = '';
  readonly #child: ChildProcess;

  constructor(t: TestContext, at: Place, args: readonly string[]) {
    const paths = ['--socket', at.socket, '--memory', at.memory, '--supervise', at.supervisor];
    const command = ['dist/cli/main.js', 'serve', 'firecracker', '--json', ...paths, ...args];
    this.#child = spawn(process.execPath, command, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    this.ended = once(this.#child, 'exit') as typeof this.ended;
    createInterface({ input: this.#child.stdout ?? assert.fail() }).on('line', (line) => {
      if (line.startsWith('{"')) this.said.push(JSON.parse(line) as Said);
    });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    t.after(() => this.kill());
  }

  /** One that listens, and serves so many VMs that it has taken over. */
  static async start(t: TestContext, at: Place, vms: number, ...args: string[]): Promise<Daemon> {
    const daemon = new Daemon(t, at, args);
    await daemon.says('listening');
    for (let i = 1; i <= vms; i++) await daemon.says('guest', i);
    return daemon;
  }

  /** Until it has said it so often. */
  async says(type: string, times = 1): Promise<void> {
    const over = (): boolean => this.#child.exitCode !== null || this.#child.signalCode !== null;
    const count = (): number => this.said.filter((line) => line.type === type).length;
    await until(() => count() >= times || over(), 60_000);
    assert.ok(count() >= times, `it has not said ${type}: ${JSON.stringify(this.said)} ${this.stderr}`);
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.#child.kill(signal);
    await this.ended;
  }
}

test(
  'daemons killed again and again under load: the next one goes on, no fault is lost, no byte wrong',
  TIMEOUT,
  async (t) => {
    const at = place(8 * MIB);
    let daemon = await Daemon.start(t, at, 0);
    const vms = [
      await SimulatedVm.ready(at.socket, ['--regions', `${4 * MIB},${4 * MIB}`]),
      await SimulatedVm.ready(at.socket, ['--era', '1.1', '--regions', `${8 * MIB}`]),
    ];
    t.after(() => vms.map((vm) => vm.kill()));
    await daemon.says('guest', 2);
    const [first, second] = vms;
    let kills = 0;
    // Each piece of memory once, since what a balloon has given back is the guest's own.
    const busy = async (vm: SimulatedVm | undefined, until: number): Promise<void> => {
      const piece = 256 * 1024;
      for (let at = 0; at < until && kills < KILLS; at += piece) await vm?.must(`balloon ${at} ${piece} 4 16`);
    };
    const work = Promise.all([busy(first, 4 * MIB), busy(second, 4 * MIB)]);
    for (; kills < KILLS; kills++) {
      await sleep(Math.random() * 50);
      await daemon.kill();
      daemon = await Daemon.start(t, at, 2);
    }
    await work;
    await first?.must(`verify ${4 * MIB} ${4 * MIB} 8`);
    await second?.must(`verify ${4 * MIB} ${4 * MIB} 8`);
    for (const vm of vms) await vm.exit();
    await daemon.says('gone', 2);
  },
);

test(
  'an upgrade: a daemon that is asked to leave, or told to end, leaves its VMs to the next one',
  TIMEOUT,
  async (t) => {
    const at = place(4 * MIB);
    const old = await Daemon.start(t, at, 0);
    const vm = await SimulatedVm.ready(at.socket, ['--regions', `${4 * MIB}`]);
    t.after(() => vm.kill());
    await old.says('guest');
    const work = vm.must(`balloon 0 ${2 * MIB} 8 100`);
    const next = await Daemon.start(t, at, 1, '--take-over');
    assert.deepEqual(await old.ended, [0, null]);
    await next.kill('SIGTERM');
    assert.deepEqual(await next.ended, [143, null]);
    const last = await Daemon.start(t, at, 1);
    await work;
    await vm.must(`verify ${2 * MIB} ${2 * MIB} 8`);
    // And it still serves who comes.
    const other = await SimulatedVm.ready(at.socket, ['--regions', `${4 * MIB}`]);
    await other.must(`verify 0 ${4 * MIB} 8`);
    await other.exit();
    await last.kill('SIGINT');
    assert.deepEqual(await vm.ended, killed); // who is interrupted ends what it serves
  },
);

test('no next daemon within the deadline: the VMs are killed, and a sentence says why', TIMEOUT, async (t) => {
  const at = place(4 * MIB);
  const daemon = await Daemon.start(t, at, 0, '--deadline', '300');
  const vm = await SimulatedVm.ready(at.socket, ['--regions', `${4 * MIB}`]);
  const work = vm.order(`balloon 0 ${4 * MIB} 8 100000`);
  await daemon.says('guest');
  await daemon.kill();
  assert.deepEqual(await vm.ended, killed);
  assert.equal(await work, undefined); // and it saw nothing wrong
  await until(() => !existsSync(at.supervisor), 20_000);
  assert.match(
    daemon.stderr,
    new RegExp(`supervisor: process ${vm.pid} \\(.*\\) is killed: no daemon has taken it over within 300 ms`),
  );
});

test('VMs of another snapshot are killed when they are taken over, and a sentence says why', TIMEOUT, async (t) => {
  const at = place(MIB);
  const daemon = await Daemon.start(t, at, 0);
  const vm = await SimulatedVm.ready(at.socket, ['--regions', `${MIB}`]);
  await daemon.says('guest');
  await daemon.kill();
  const next = await Daemon.start(t, { ...at, memory: memoryFile(MIB) }, 0);
  await next.says('warning');
  assert.deepEqual(await vm.ended, killed);
  assert.match(
    next.said.find((line) => line.type === 'warning')?.message ?? '',
    /was restored from another snapshot than this daemon serves$/,
  );
});

test('in a program: a server leaves, the next one serves, and no descriptor is left', TIMEOUT, async () => {
  await new GuestEngine().close(); // its threads have a descriptor, once a process
  const before = openFds();
  const at = place(MIB);
  const options = { socket: at.socket, memory: at.memory, supervise: at.supervisor };
  const first = await serveFirecracker(options);
  await assert.rejects(serveFirecracker({ ...options, socket: freshPath() }), { code: 'ERR_PAGEFAULT_SUPERVISOR' });
  const vm = await SimulatedVm.ready(at.socket, ['--regions', `${MIB}`]);
  await vm.must('remove 4096 4096');
  await first.leave();
  assert.ok(existsSync(at.socket)); // whoever connects waits for the next one
  const second = await serveFirecracker(options);
  assert.deepEqual(
    [...second.guests].map((guest) => guest.pid),
    [vm.pid],
  );
  await vm.must('touch 4096', '0'.repeat(16));
  await vm.must('touch 8192', wordAt(8192));
  const look = UnixSocket.connect(at.supervisor);
  process.kill(look.peer().pid, 'SIGKILL'); // the next supervisor is given the socket, too
  look.close();
  const other = await SimulatedVm.ready(at.socket, ['--regions', `${MIB}`]);
  await other.must('touch 8192', wordAt(8192));
  await second.close();
  assert.deepEqual(await other.ended, killed);
  assert.equal(existsSync(at.socket), false);
  assert.deepEqual(await vm.ended, killed);
  await until(() => openFds() <= before && !existsSync(at.supervisor), 20_000);
});

test('a VM that hangs up, and is ended for it, leaves no descriptor in a server that goes on', TIMEOUT, async () => {
  await new GuestEngine().close(); // its threads have a descriptor, once a process
  const at = place(MIB);
  const server = await serveFirecracker({ socket: at.socket, memory: at.memory, supervise: at.supervisor });
  const before = openFds();
  for (let i = 0; i < 3; i++) {
    const vm = await SimulatedVm.ready(at.socket, ['--regions', `${MIB}`]);
    await vm.must('touch 4096', wordAt(4096));
    const gone = once(server, 'gone');
    await vm.order('hang-up'); // 'ok', or its end came first
    await gone;
    assert.deepEqual(await vm.ended, killed);
  }
  await until(() => openFds() <= before, 20_000);
  await server.close();
});

test('an abort while the VMs of the daemon before are taken over closes the server', TIMEOUT, async () => {
  const at = place(MIB);
  const options = { socket: at.socket, memory: at.memory, supervise: at.supervisor };
  for (let turns = 0; turns < 6; turns++) {
    const controller = new AbortController();
    const serving = serveFirecracker({ ...options, signal: controller.signal }).catch(() => undefined);
    await until(() => existsSync(at.socket), 20_000);
    for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
    controller.abort();
    const server = await serving;
    await until(() => !existsSync(at.socket), 20_000);
    await server?.close();
  }
});

/** The number of the process that listens at a socket. */
function listenerOf(path: string): number {
  const look = UnixSocket.connect(path);
  const { pid } = look.peer();
  look.close();
  return pid;
}

test('VMs that hand over their memory while a server leaves are left to the next one, too', TIMEOUT, async (t) => {
  const at = place(MIB);
  const options = { socket: at.socket, memory: at.memory, supervise: at.supervisor, handshakeTimeoutMs: 60_000 };
  const first = await serveFirecracker(options);
  const args = ['--regions', `${MIB}`, '--split', '20', '--pause'];
  const vms = [1, 2, 3].map(() => SimulatedVm.start(at.socket, args));
  t.after(() => vms.map((vm) => vm.kill()));
  const supervisor = listenerOf(at.supervisor);
  await until(() => descriptorsOf(supervisor, 'pidfd') === 6, 20_000); // of each, and one to watch its end
  process.kill(supervisor, 'SIGSTOP');
  const goOn = async (vm: SimulatedVm): Promise<void> => {
    assert.match((await vm.order('the rest of it')) ?? '', /^ready/);
    await until(() => [...first.guests].some(({ pid }) => pid === vm.pid), 20_000);
  };
  const [early, ...late] = vms;
  await goOn(early ?? assert.fail());
  const left = first.leave();
  for (const vm of late) await goOn(vm);
  process.kill(supervisor, 'SIGCONT');
  await left;
  const second = await serveFirecracker(options);
  assert.deepEqual(new Set([...second.guests].map(({ pid }) => pid)), new Set(vms.map(({ pid }) => pid)));
  for (const vm of vms) await vm.must('touch 8192', wordAt(8192));
  await second.close();
});

test('a daemon that crashes by an exception leaves its VMs to the next one, too', TIMEOUT, async (t) => {
  const at = place(MIB);
  const options = JSON.stringify({ socket: at.socket, memory: at.memory, supervise: at.supervisor });
  const code = `import { serveFirecracker } from 'pagefault/guests';
    const server = await serveFirecracker(${options});
    server.on('guest', () => { throw new Error('a bug'); });`;
  const crashing = spawn(process.execPath, ['--input-type=module', '-e', code], { cwd: root, stdio: 'ignore' });
  const crashed = once(crashing, 'exit'); // its streams are the supervisor's, too
  await until(() => isListening(at.socket), 20_000);
  const vm = await SimulatedVm.ready(at.socket, ['--regions', `${MIB}`]);
  t.after(() => vm.kill());
  assert.deepEqual(await crashed, [1, null]);
  const work = vm.must(`verify 0 ${MIB} 8`);
  const next = await Daemon.start(t, at, 1);
  await work;
  await next.kill('SIGINT');
  assert.deepEqual(await vm.ended, killed);
});

test('who has connected, and not handed over its memory, dies with its daemon', TIMEOUT, async (t) => {
  const at = place(MIB);
  const daemon = await Daemon.start(t, at, 0, '--deadline', '60000');
  const vm = SimulatedVm.start(at.socket, ['--regions', `${MIB}`, '--body', '[', '--split', '1']);
  t.after(() => vm.kill());
  assert.match((await vm.line()) ?? '', /^ready/);
  const supervisor = listenerOf(at.supervisor);
  await until(() => descriptorsOf(supervisor, 'pidfd') === 2, 20_000); // the daemon has it: it, and one to watch its end
  await daemon.kill();
  assert.deepEqual(await vm.ended, killed);
});

test(
  'who has connected, and whom the daemon has not seen when it dies, is served by the next one',
  TIMEOUT,
  async (t) => {
    const at = place(MIB);
    const regions = ['--regions', `${MIB}`];
    const daemon = await Daemon.start(t, at, 0);
    daemon.signal('SIGSTOP');
    const seen = await SimulatedVm.ready(at.socket, regions); // the supervisor has it; it has sent everything
    const older = await SimulatedVm.ready(at.socket, [...regions, '--era', '1.1']); // and hangs up
    await daemon.kill();
    const meanwhile = await SimulatedVm.ready(at.socket, regions);
    const vms = [seen, older, meanwhile];
    t.after(() => vms.map((vm) => vm.kill()));
    const next = await Daemon.start(t, at, 3);
    for (const vm of vms) await vm.must(`verify 0 ${MIB} 4`);
    await next.kill('SIGINT');
    for (const vm of vms) assert.deepEqual(await vm.ended, killed);
    await until(() => !existsSync(at.socket) && !existsSync(at.supervisor), 20_000);
  },
);

test(
  'who has connected, and is seen by no daemon within the deadline, is killed; who has said nothing is not',
  TIMEOUT,
  async (t) => {
    const at = place(MIB);
    const daemon = await Daemon.start(t, at, 0, '--deadline', '300');
    daemon.signal('SIGSTOP');
    const vm = await SimulatedVm.ready(at.socket, ['--regions', `${MIB}`]);
    t.after(() => vm.kill());
    const silent = UnixSocket.connect(at.socket); // of this process, which had better not be killed
    await daemon.kill();
    assert.deepEqual(await vm.ended, killed);
    await until(() => silent.fill() === 'end' && !existsSync(at.socket) && !existsSync(at.supervisor), 20_000);
    silent.close();
    assert.match(
      daemon.stderr,
      new RegExp(
        `supervisor: process ${vm.pid}, which has handed over its memory to nobody, is killed: no daemon has come`,
      ),
    );
  },
);

test(
  'a working set that was being brought when the daemon ended is gone on with by the next one',
  TIMEOUT,
  async () => {
    const at = place(MIB);
    const record = freshPath('ws');
    const pages = [3, 9, 20, 150, 170, 200];
    const regions = ['--regions', `${MIB / 2},${MIB / 2}`];
    const store = new VmStore(MIB, 150 * PAGE);
    const recording = await serveFirecracker({ socket: freshPath(), memory: store.ref, record });
    const first = await SimulatedVm.ready(recording.socket, regions);
    for (const page of pages) await first.must(`touch ${page * PAGE + 8}`, wordAt(page * PAGE + 8));
    await first.exit();
    await until(() => recording.guests.size === 0, 20_000);
    await recording.close();

    const before = store.asked;
    store.mode = 'held';
    const options = { socket: at.socket, memory: store.ref, supervise: at.supervisor, replay: record };
    const server = await serveFirecracker(options);
    const vm = await SimulatedVm.ready(at.socket, regions);
    await until(() => store.asked > before && [...server.guests][0]?.numbers().present === pages.length - 1, 20_000);
    await vm.must(`remove ${9 * PAGE} ${PAGE}`);
    await server.leave(); // in the middle of it
    store.mode = 'well';
    const next = await serveFirecracker(options);
    const [guest] = [...next.guests];
    assert.ok(guest);
    await until(() => guest.numbers().prefetched === 1, 20_000);
    for (const page of pages) {
      await vm.must(`touch ${page * PAGE + 8}`, page === 9 ? '0'.repeat(16) : wordAt(page * PAGE + 8));
    }
    assert.equal(guest.numbers().demand, 1); // what it had given back
    await next.close();
    assert.deepEqual(await vm.ended, killed);
  },
);

test('a daemon that has no room for another descriptor is given the connection again', TIMEOUT, async (t) => {
  const at = place(MIB);
  const daemon = await Daemon.start(t, at, 0);
  const limit = (most: string): void => {
    execFileSync('prlimit', ['--pid', String(daemon.pid), `--nofile=${most}:`]);
  };
  limit('3');
  const vm = await SimulatedVm.ready(at.socket, ['--regions', `${MIB}`]);
  t.after(() => vm.kill());
  await sleep(300); // it is told of it more than once
  limit('1024');
  await vm.must(`verify 0 ${MIB} 4`);
  await daemon.kill('SIGINT');
  assert.deepEqual(await vm.ended, killed);
});
