/** `pagefault doctor` on this machine, and under a filter that refuses userfaultfd. */
import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { release } from 'node:os';
import { test } from 'node:test';
import { isSupported, systemPageSize } from 'pagefault';
import { probe } from '#dist/native/load.js';
import { nobody, runConfined } from '../helpers/confined.js';
import { runCli } from '../helpers/run.js';

interface Document {
  supported: boolean;
  kernel: string;
  pageSize: number;
  userfaultfd: { userMode: { works: boolean; errno: string | null }; features: string[] };
  seccomp: string;
  backends: { name: string; works: string; reason: string; fixes: string[] }[];
  runtime: { node: string; largestBuffer: number };
}

const worksOf = ({ backends }: Document, name: string): string | undefined =>
  backends.find((backend) => backend.name === name)?.works;

test('the report names this kernel and runtime and ends with the backend that is picked', async () => {
  const { code, stdout, stderr } = await runCli(['doctor']);
  assert.equal(code, isSupported() ? 0 : 4);
  assert.equal(stderr, '');
  assert.ok(stdout.includes(release()));
  assert.ok(stdout.includes(process.version));
  assert.match(
    stdout.trimEnd().split('\n').at(-1) ?? '',
    /^pagefault works here\. Backend 'auto' is (signal|mprotect): /,
  );
});

test('the JSON document says the same', async () => {
  const { code, stdout } = await runCli(['doctor', '--json']);
  const document = JSON.parse(stdout) as Document;
  assert.equal(code, 0);
  assert.equal(document.supported, true);
  assert.equal(document.kernel, release());
  assert.equal(document.pageSize, systemPageSize());
  assert.equal(document.runtime.node, process.version);
  assert.equal(worksOf(document, 'mprotect'), 'yes');
  assert.equal(worksOf(document, 'thread'), probe().servedErrno === 0 ? 'yes' : 'no');
  assert.equal(worksOf(document, 'kernel'), 'later');
});

test('under a seccomp filter that refuses userfaultfd, mprotect is left and the filter is named', async () => {
  const { code, stdout, stderr } = await runConfined({ denyUserfaultfd: true }, 'dist/cli/main.js', [
    'doctor',
    '--json',
  ]);
  assert.equal(code, 0, stderr);
  const document = JSON.parse(stdout) as Document;
  assert.equal(document.seccomp, 'filter');
  assert.deepEqual(document.userfaultfd.userMode, { works: false, errno: 'EPERM' });
  assert.deepEqual(document.userfaultfd.features, []);
  assert.equal(worksOf(document, 'signal'), 'no');
  assert.equal(worksOf(document, 'mprotect'), 'yes');
  const text = await runConfined({ denyUserfaultfd: true }, 'dist/cli/main.js', ['doctor']);
  assert.match(text.stdout, /seccomp filter/);
  assert.match(text.stdout, /--security-opt seccomp=/);
  assert.match(text.stdout, /Backend 'auto' is mprotect/);
});

test('as nobody under that filter with the device lent, signal and thread work; without it, what is offered can help', {
  skip: probe().deviceErrno === 0 ? false : '/dev/userfaultfd cannot be opened here',
}, async (t) => {
  const user = nobody();
  if ('reason' in user) {
    t.skip(user.reason);
    return;
  }
  const confinement = { denyUserfaultfd: true, uid: user.uid };
  const fd = openSync('/dev/userfaultfd', 'r+');
  try {
    const options = { env: { ...process.env, PAGEFAULT_USERFAULTFD: '3' }, fds: [fd] };
    const lent = await runConfined(confinement, 'dist/cli/main.js', ['doctor', '--json'], options);
    const document = JSON.parse(lent.stdout) as Document;
    for (const name of ['signal', 'thread']) assert.equal(worksOf(document, name), 'yes', lent.stdout);
    const text = await runConfined(confinement, 'dist/cli/main.js', ['doctor'], options);
    assert.match(text.stdout, /Backend 'auto' is signal/);
    assert.doesNotMatch(text.stdout, /newer kernel/);
  } finally {
    closeSync(fd);
  }
  const without = await runConfined(confinement, 'dist/cli/main.js', ['doctor', '--json']);
  const thread = (JSON.parse(without.stdout) as Document).backends.find(({ name }) => name === 'thread');
  assert.equal(thread?.works, 'no');
  assert.doesNotMatch(String(thread?.fixes), /sysctl/);
  assert.match(String(thread?.fixes), /useDevice/);
});
