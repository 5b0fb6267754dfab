// Builds the floors in C into build/bench/floor.node with one call of the compiler, if it is missing or older than a source.
// Run by the benchmark; `node bench/floor/build.mjs` does it by hand.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
export const target = join(here, '..', '..', 'build', 'bench', 'floor.node');

/** @param {string} path */
const changed = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

/** Builds if something has changed. Throws if the compiler fails. */
export function build() {
  const files = readdirSync(here).map((name) => join(here, name));
  const newest = Math.max(...files.map(changed));
  if (changed(target) > newest) return;

  const include = createRequire(import.meta.url)('node-api-headers').include_dir;
  const [command = 'cc', ...prefix] = (process.env.CC || 'cc').split(' ').filter(Boolean);
  const temporary = `${target}.${process.pid}`;
  mkdirSync(dirname(target), { recursive: true });
  const result = spawnSync(
    command,
    [
      ...prefix,
      ...['-std=c11', '-O2', '-g', '-fPIC', '-shared', '-fvisibility=hidden', '-pthread'],
      ...['-Wall', '-Wextra', '-Wshadow', '-Werror', '-DNAPI_VERSION=9', '-D_GNU_SOURCE', `-I${include}`],
      ...files.filter((path) => path.endsWith('.c')),
      ...['-Wl,-z,nodelete', '-o', temporary],
    ],
    { stdio: ['ignore', 2, 2] },
  );
  if (result.error) throw new Error(`"${command}" cannot be started: ${result.error.message}`);
  if (result.status !== 0) {
    rmSync(temporary, { force: true });
    throw new Error(`"${command}" failed to build the floors of the benchmark.`);
  }
  renameSync(temporary, target);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) build();
