/** Handshakes that are wrong: one sentence each, no descriptor is left, and the VM beside is served on. Whoever has handed over memory is killed: nobody would serve it. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { serveFirecracker } from 'pagefault/guests';
import { closeFd, sendFds, Uffd, UnixListener, UnixSocket } from 'pagefault/kernel';
import { descriptorTarget } from '#dist/kernel/descriptor.js';
import { openFds, until } from '../../helpers/descriptors.js';
import { freshPath, memoryFile, SimulatedVm } from '../../helpers/firecracker-vm.js';

const PAGE = 4096;
const MIB = 2 ** 20;
const timeout = 60_000;
const memory = memoryFile(MIB);
const server = await serveFirecracker({ socket: freshPath(), memory });
const beside = await SimulatedVm.ready(server.socket);
await until(() => server.guests.size === 1, 20_000);
let looked = 0;
after(async () => {
  await beside.must(`verify 0 ${MIB} 2`);
  await beside.exit();
  await server.close();
});

/** The sentence that the server says to this, and that nothing has come of it. */
async function refusal(job: () => Promise<void>): Promise<string> {
  const before = openFds();
  const told = once(server, 'refused');
  await job();
  const [error] = (await told) as [Error & { code?: string }];
  assert.equal(error.code, 'ERR_PAGEFAULT_GUEST_HANDSHAKE');
  await until(() => openFds() <= before, 20_000);
  assert.equal(server.guests.size, 1);
  looked += PAGE;
  await beside.must(`verify ${looked} ${PAGE}`);
  return error.message;
}

const regionOf = (size: number, offset = 0, address = '@0'): string =>
  `{"base_host_virt_addr":${address},"size":${size},"offset":${offset},"page_size":4096}`;

const handedOver: [string, string[], RegExp][] = [
  ['three descriptors', ['--fds', 'uffd,memfd,bitmap'], /3 descriptors came with it/],
  ['secret memory', ['--era', 'secret'], /is secret \(guest_memfd\)/],
  ['a memory object first', ['--fds', 'memfd,uffd'], /its descriptor is no userfaultfd but \/memfd:/],
  [
    'two userfaultfds',
    ['--fds', 'uffd,uffd'],
    /its second descriptor is no memory object but anon_inode:\[userfaultfd\]/,
  ],
  ['a file beside', ['--fds', 'uffd,file'], /second descriptor is no memory object but \/.*firecracker/],
  ['a userfaultfd without a handshake', ['--fds', 'unshaken'], /its userfaultfd cannot be used: /],
  ['a userfaultfd that blocks', ['--fds', 'blocking'], /its userfaultfd blocks/],
  ['garbage', ['--body', 'garbage'], /begins with 'garbage', not with a JSON array/],
  ['an object', ['--body', `${regionOf(MIB)}`], /not with a JSON array/],
  ['broken JSON', ['--body', `[${regionOf(MIB)}}]`], /it is no JSON/],
  ['more than any needs', ['--body', `[${' '.repeat(70_000)}]`], /more than 65536 bytes/],
  [
    'regions that overlap',
    ['--body', `[${regionOf(MIB / 2)},${regionOf(MIB / 2, MIB / 2)}]`],
    /regions 0 and 1 overlap/,
  ],
  [
    'regions that do not sum up',
    ['--body', `[${regionOf(MIB / 2)}]`],
    /512 KiB, the memory file 1 MiB: it is another VM's/,
  ],
  ['more regions than memory', ['--regions', `${2 * MIB}`], /2 MiB, the memory file 1 MiB: the file is too short/],
  [
    'an unaligned region',
    ['--body', `[${regionOf(MIB, 0, '@01')}]`.replace('@01', '140000000000001')],
    /not aligned to pages/,
  ],
  ['an offset of its own', ['--body', `[${regionOf(MIB, PAGE)}]`], /not at all/],
  [
    'a truncated one, and the end',
    ['--body', `[${regionOf(MIB)}`, '--era', '1.7'],
    /the connection ended after \d+ bytes of it/,
  ],
];

for (const [name, args, sentence] of handedOver) {
  test(`refused, and killed: ${name}`, { timeout }, async () => {
    const message = await refusal(async () => {
      const vm = SimulatedVm.start(server.socket, args);
      assert.deepEqual(await vm.ended, { code: null, signal: 'SIGKILL' });
    });
    assert.match(message, /^the handshake of process \d+ is refused: /);
    assert.match(message, sentence);
  });
}

const harmless: [string, string[], RegExp][] = [
  ['no descriptor', ['--fds', 'none'], /no descriptor came with it/],
  ['a file for a userfaultfd', ['--fds', 'file'], /its descriptor is no userfaultfd but \/.*firecracker/],
  ['more descriptors than are expected', ['--fds', 'many'], /253 descriptors came, and one is expected/],
];

for (const [name, args, sentence] of harmless) {
  test(`refused, and left alone: ${name}`, { timeout }, async () => {
    const message = await refusal(async () => {
      const vm = await SimulatedVm.ready(server.socket, args);
      await vm.exit();
      assert.deepEqual(await vm.ended, { code: 0, signal: null });
    });
    assert.match(message, sentence);
  });
}

test('a second handshake of the same memory is refused', { timeout }, async () => {
  const before = openFds();
  const told = once(server, 'refused');
  const vm = await SimulatedVm.ready(server.socket);
  await until(() => server.guests.size === 2, 20_000);
  await vm.order('again');
  assert.match((await told)[0].message, /it hands over memory that the process has handed over before/);
  assert.deepEqual(await vm.ended, { code: null, signal: 'SIGKILL' });
  await until(() => openFds() <= before, 20_000);
});

test('whoever connects and says nothing, or half of it, is not waited for', { timeout }, async () => {
  const hasty = await serveFirecracker({ socket: freshPath(), memory, handshakeTimeoutMs: 1500 });
  const silent = once(hasty, 'refused');
  const socket = UnixSocket.connect(hasty.socket);
  await until(() => socket.fill() === 'end', 20_000);
  socket.close();
  assert.match((await silent)[0].message, /it sent nothing within 1500 ms/);
  const halved = once(hasty, 'refused');
  const vm = SimulatedVm.start(hasty.socket, ['--body', `[${regionOf(MIB)}`]);
  assert.deepEqual(await vm.ended, { code: null, signal: 'SIGKILL' });
  assert.match((await halved)[0].message, /it sent \d+ bytes and not the end within 1500 ms/);
  await hasty.close();
  const gone = await refusal(async () => UnixSocket.connect(server.socket).close());
  assert.match(gone, /the connection ended before it came/);
});

test('memory of the server itself is refused, and it does not kill itself', { timeout }, async () => {
  const message = await refusal(async () => {
    const uffd = Uffd.open({ userModeOnly: true });
    const socket = UnixSocket.connect(server.socket);
    sendFds(
      socket,
      [uffd.fd],
      Buffer.from(`[${regionOf(MIB).replace('@0', '140000000000000')}]`.replaceAll('140000000000000', `${2 ** 40}`)),
    );
    await until(() => socket.fill() === 'end', 20_000);
    socket.close();
    uffd.close();
  });
  assert.match(message, /it comes from this process itself/);
});

test('a socket path that is something else is left as it is', { timeout }, async () => {
  const before = openFds();
  const file = freshPath('file');
  writeFileSync(file, 'mine');
  await assert.rejects(serveFirecracker({ socket: file, memory }), /cannot listen at .*: it is a file/);
  assert.equal(readFileSync(file, 'utf8'), 'mine');
  const folder = freshPath('folder');
  mkdirSync(folder);
  await assert.rejects(serveFirecracker({ socket: folder, memory }), /it is a directory/);
  await assert.rejects(serveFirecracker({ socket: server.socket, memory }), /process \d+ listens there/);
  await assert.rejects(serveFirecracker({ socket: `${folder}/none/s`, memory }), /its directory does not exist/);
  await assert.rejects(serveFirecracker({ socket: `/${'x'.repeat(200)}`, memory }), RangeError);
  if (process.getuid?.() === 0) {
    const foreign = freshPath('foreign');
    const listener = UnixListener.listen(foreign);
    chownSync(foreign, 12_345, 12_345);
    await assert.rejects(serveFirecracker({ socket: foreign, memory }), /it is a socket of another user \(uid 12345/);
    listener.close();
  }
  assert.equal(openFds(), before);
});

test('a socket that was left behind is replaced; its permissions and its owner are those that were asked for', {
  timeout,
}, async () => {
  const socket = freshPath();
  const vm = SimulatedVm.start(socket); // nobody is there yet
  assert.match((await vm.line()) ?? '', /failed connect/);
  const left = UnixListener.listen(socket);
  closeFd(left.fd); // as after a crash
  const owner = process.getuid?.() === 0 ? { owner: { uid: 12_345, gid: 54_321 } } : {};
  const again = await serveFirecracker({ socket, memory, mode: 0o660, ...owner });
  try {
    const { mode, uid, gid } = statSync(socket);
    assert.equal(mode & 0o777, 0o660);
    if ('owner' in owner) assert.deepEqual({ uid, gid }, owner.owner);
    const served = await SimulatedVm.ready(socket);
    await served.must(`verify 0 ${16 * PAGE}`);
    await served.exit();
  } finally {
    await again.close();
  }
  assert.equal(existsSync(socket), false);
});

test('memory that cannot be had is refused before anybody connects, and leaves nothing', { timeout }, async () => {
  const before = openFds();
  const socket = freshPath();
  const empty = freshPath('empty');
  writeFileSync(empty, '');
  for (const [path, sentence] of [
    [freshPath('none'), /none\d+/],
    [empty, /empty/],
    ['/tmp', /tmp/],
  ] as const) {
    await assert.rejects(serveFirecracker({ socket, memory: path }), sentence);
    assert.equal(existsSync(socket), false);
  }
  await until(() => openFds() <= before, 20_000);
});

test('options that are wrong are named', { timeout }, async () => {
  const socket = freshPath();
  const wrong: [object, RegExp][] = [
    [{ memory }, /there is no socket to listen at/],
    [{ socket }, /there is no memory/],
    [{ socket, memory, snapshot: server.snapshot }, /memory and snapshot are two ways/],
    [{ socket, memory: [] }, /memory is an empty array/],
    [{ socket, memory: ['a', 7] }, /memory must be the path of a file, not 7/],
    [{ socket, memory, onfailure: 'kill' }, /there is no option 'onfailure'; did you mean 'onFailure'\?/],
    [{ socket, memory, onFailure: 'zero' }, /onFailure must be 'kill' or 'park', not 'zero'/],
    [{ socket, memory, faultTimeoutMs: 0 }, /faultTimeoutMs must be a whole number of milliseconds from 1/],
    [{ socket, memory, handshakeTimeoutMs: -1 }, /handshakeTimeoutMs must be/],
    [{ socket, memory, threads: 0 }, /threads must be a whole number from 1 to 16/],
    [{ socket, memory, mode: 0o1777 }, /mode must be a whole number from 0 to 511/],
    [{ socket, memory, owner: { uid: 1 } }, /owner\.gid must be/],
    [{ socket, memory, owner: { user: 1 } }, /there is no option 'user'/],
    [{ socket, memory, record: 5 }, /record must be the path of a file/],
    [{ socket, memory, cap: 'much' }, /cap must be a number with KiB/],
    [{ socket: 7, memory }, /the path must be a string/],
  ];
  for (const [options, sentence] of wrong) {
    await assert.rejects(serveFirecracker(options as Parameters<typeof serveFirecracker>[0]), sentence);
  }
  assert.equal(existsSync(socket), false);
});

test('one snapshot may serve several sockets, and stays open', { timeout }, async () => {
  const { snapshot } = server;
  const second = await serveFirecracker({ socket: freshPath(), snapshot });
  const vm = await SimulatedVm.ready(second.socket);
  await vm.must(`verify 0 ${16 * PAGE}`);
  await vm.exit();
  await second.close();
  looked += PAGE;
  await beside.must(`verify ${looked} ${PAGE}`);
});

/** Descriptors of this process that are pidfds of another one. */
function pidfdsOf(pid: number): number {
  return readdirSync('/proc/self/fdinfo').filter((fd) => {
    try {
      return new RegExp(`^Pid:\\t${pid}$`, 'm').test(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'));
    } catch {
      return false; // closed meanwhile: that of the folder itself
    }
  }).length;
}

/** Userfaultfds of this process. */
function uffds(): number {
  return readdirSync('/proc/self/fd').filter((fd) => descriptorTarget(Number(fd)) === 'anon_inode:[userfaultfd]')
    .length;
}

test('its pidfd is there before its handshake is', { timeout }, async () => {
  const before = uffds();
  const vm = SimulatedVm.start(server.socket, ['--split', '8', '--pause']);
  await until(() => uffds() > before, 20_000); // the first bytes have come, and with them its memory
  assert.equal(pidfdsOf(vm.pid), 1);
  assert.equal(server.guests.size, 1);
  assert.match((await vm.order('the rest')) ?? 'it has ended', /^ready/);
  await until(() => server.guests.size === 2, 20_000);
  assert.ok(pidfdsOf(vm.pid) >= 1);
  await vm.exit();
  await until(() => server.guests.size === 1 && pidfdsOf(vm.pid) === 0, 20_000);
});
