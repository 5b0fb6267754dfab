// Builds the C core into build/Release/pagefault.node, or the file that is named, with one call of the compiler. The headers come from
// node-api-headers, so neither node-gyp nor Node's own headers are needed; Node's symbols are found when it loads the file.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function fail(sentence) {
  console.error(`pagefault: ${sentence}`);
  process.exit(1);
}

if (process.platform !== 'linux') {
  console.error(
    `pagefault: there is no core for ${process.platform}; the package loads, and isSupported() says false.`,
  );
  process.exit(0);
}

const compiler = process.env.CC || 'cc';
const sources = readdirSync(join(root, 'native'))
  .filter((name) => name.endsWith('.c'))
  .sort()
  .map((name) => join('native', name));
if (sources.length === 0) fail('native/ holds no C files.');

const target = process.argv[2] ?? join(root, 'build', 'Release', 'pagefault.node');
const temporary = `${target}.${process.pid}`;
mkdirSync(dirname(target), { recursive: true });

const include = createRequire(import.meta.url)('node-api-headers').include_dir;
const [command = 'cc', ...prefix] = compiler.split(' ').filter(Boolean);
const flags = ['-std=c11', '-O2', '-g', '-fPIC', '-shared', '-fvisibility=hidden', '-pthread'];
const warnings = ['-Wall', '-Wextra', '-Wshadow', '-Werror'];
const defines = ['-DNAPI_VERSION=9', '-D_GNU_SOURCE', `-I${include}`];
// nodelete: signal handlers stay installed when the last Worker that loaded the file ends.
const link = ['-Wl,-z,nodelete', '-Wl,-z,relro,-z,now'];
const args = [...prefix, ...flags, ...warnings, ...defines, ...sources, ...link, '-o', temporary];

const result = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
if (result.error?.code === 'ENOENT') {
  fail(`no C compiler: "${command}" was not found. Install gcc or clang (Debian: apt-get install gcc), or set CC.`);
}
if (result.error) fail(`"${command}" cannot be started: ${result.error.message}`);
if (result.status !== 0) {
  rmSync(temporary, { force: true });
  fail(`"${command}" failed with ${result.signal ?? `exit code ${result.status}`}.`);
}
renameSync(temporary, target);
