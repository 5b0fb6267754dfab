/** Colours and characters, as the environment asks for them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hasUnicode } from 'pagefault/observe';
import { runNode } from '../helpers/run.js';

const PAINT = `
  import { terminalOf } from 'pagefault/observe';
  process.stdout.write(terminalOf(process.stdout).paint('red', 'x'));
`;

async function painted(extra: NodeJS.ProcessEnv): Promise<string> {
  const env: NodeJS.ProcessEnv = { ...process.env };
  for (const name of ['NO_COLOR', 'FORCE_COLOR', 'NODE_DISABLE_COLORS', 'TERM']) delete env[name];
  const ran = await runNode('--input-type=module', ['-e', PAINT], { env: { ...env, ...extra } });
  assert.equal(ran.code, 0, ran.stderr);
  return ran.stdout;
}

test('a pipe gets no colours unless they are forced', async () => {
  assert.equal(await painted({ TERM: 'xterm-256color' }), 'x');
  assert.equal(await painted({ TERM: 'xterm-256color', FORCE_COLOR: '1' }), '\x1b[31mx\x1b[39m');
});

test('NO_COLOR and TERM=dumb give none', async () => {
  assert.equal(await painted({ TERM: 'xterm-256color', NO_COLOR: '1' }), 'x');
  assert.equal(await painted({ TERM: 'dumb' }), 'x');
});

test('block characters are left out where the terminal or the locale has none', () => {
  assert.equal(hasUnicode({}), true);
  assert.equal(hasUnicode({ LANG: 'de_DE.UTF-8' }), true);
  assert.equal(hasUnicode({ LC_ALL: 'C.utf8', LANG: 'C' }), true);
  assert.equal(hasUnicode({ LANG: 'C' }), false);
  assert.equal(hasUnicode({ LANG: 'de_DE.UTF-8', TERM: 'linux' }), false);
  assert.equal(hasUnicode({ TERM: 'dumb' }), false);
});
