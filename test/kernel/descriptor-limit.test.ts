/** A full table of descriptors: every call says so in one sentence, nothing is left open, and nothing is done by halves. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../helpers/run.js';

const TIMEOUT = { timeout: 60_000 };

const PROGRAM = `
  import assert from 'node:assert/strict';
  import { closeSync, openSync } from 'node:fs';
  import * as kernel from 'pagefault/kernel';
  import { duplicateFds } from '#dist/kernel/duplicate.js';
  const { closeFd, Memfd, Mapping, PidFd, probe, receiveFds, scanPages, SignalFd, Uffd, UnixListener, UnixSocket } = kernel;
  const path = process.argv[1];
  const memory = Mapping.anonymous(4096);
  const listener = UnixListener.listen(path);
  const client = UnixSocket.connect(path);
  const [here, there] = UnixSocket.pair();
  const given = [Memfd.create('given').intoFd(), Uffd.open().intoFd(), PidFd.open(process.pid).intoFd()];
  const myself = PidFd.open(process.pid);
  probe();

  const plugs = [];
  const plug = () => {
    try { for (;;) plugs.push(openSync('/dev/null')); } catch (error) { assert.equal(error.code, 'EMFILE'); }
  };
  const free = (count) => { for (let i = 0; i < count; i++) closeSync(plugs.pop()); };
  const room = () => { const before = plugs.length; plug(); const count = plugs.length - before; free(count); return count; };

  /** Fails for want of descriptors with this many free, and as many are free afterwards. */
  const EMFILE = { errno: 24, message: /no more descriptors may be open in this process \\(ulimit -n\\)/ };
  const refuses = (count, call, details = EMFILE) => {
    plug();
    free(count);
    assert.throws(call, details);
    assert.equal(room(), count, String(call));
  };
  refuses(0, () => Uffd.open(), { ...EMFILE, name: 'SystemError' });
  refuses(1, () => Uffd.open({ device: '/dev/userfaultfd' }));
  refuses(0, () => Uffd.open({ device: 'never' }));
  refuses(0, () => Uffd.fromFd(given[1]));
  refuses(0, () => Memfd.create('more'));
  refuses(0, () => UnixSocket.pair());
  refuses(1, () => UnixSocket.pair());
  refuses(0, () => UnixSocket.connect(path));
  refuses(0, () => UnixListener.listen(path + '2'));
  refuses(0, () => listener.accept(), { errno: 24, message: /no more descriptors .*the connection waits/ });
  refuses(0, () => PidFd.open(process.pid));
  refuses(0, () => PidFd.fromFd(given[2]));
  refuses(0, () => client.peerPidFd());
  refuses(1, () => client.peerPidFd());
  refuses(0, () => scanPages(memory));
  refuses(0, () => Mapping.file('/proc/self/exe'));
  refuses(0, () => SignalFd.open(['SIGUSR2']), { errno: 24, message: /no more descriptors/ });
  refuses(0, () => myself.onExit(() => {}));
  refuses(1, () => duplicateFds('a test', [here, there]));

  // Descriptors that come: none stays, the bytes do.
  there.send(Uint8Array.of(1, 2, 3), [0, 1]);
  there.send(Uint8Array.of(4), [0]);
  const cut = { code: 'ERR_PAGEFAULT_TRUNCATED', message: /those that came were closed/ };
  refuses(1, () => here.fill(), cut);
  assert.deepEqual([here.available, here.fdCount], [3, 0]);
  refuses(0, () => receiveFds(here), cut);
  there.send(Uint8Array.of(5), [0]);
  plug();
  free(1);
  assert.equal(here.fill(), 'data');
  assert.deepEqual([...here.read(4)], [1, 2, 3, 5]);
  closeFd(here.takeFd());

  // One is enough for signals: no thread is left out for want of a second.
  assert.equal(room(), 1);
  const signals = SignalFd.open(['SIGUSR2']);
  for (let i = 0; i < 20; i++) {
    process.kill(process.pid, 'SIGUSR2');
    assert.equal(signals.read().length, 1);
  }
  signals.close();
  free(plugs.length);
  listener.accept().close();
  for (const one of [listener, client, here, there, myself]) one.close();
  memory.unmap();
  process.stdout.write('through');
`;

test('a full table of descriptors is told in a sentence, and leaves nothing behind', TIMEOUT, async () => {
  const path = `/tmp/pagefault-limit-${process.pid}`;
  const node = [process.execPath, '--input-type=module', '-e', PROGRAM, path];
  const ran = await run('sh', ['-c', 'ulimit -n 64; exec "$@"', 'sh', ...node], { timeoutMs: 30_000 });
  assert.deepEqual([ran.stderr, ran.stdout, ran.code], ['', 'through', 0]);
});
