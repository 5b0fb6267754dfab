// `npm run bench`: measures each figure against a floor in plain C within one run, and prints a table (or, with --json, one JSON
// document). The floors and what the numbers mean are explained in bench/README.md.
import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { makeFile } from './lib/context.js';
import { FIGURES, loadFigure } from './lib/figures.js';
import { metAll, table } from './lib/table.js';

const HELP = `Usage: npm run bench -- [options]

  --only NAME     only this figure; may be repeated
  --quick         fewer pages and rounds: to see whether it runs, not how fast
  --rounds N      rounds that count, at least 7 unless --quick (default 9)
  --working-set N pages that the guest of guest-working-set touches (default 10000); with 100000 it takes some minutes
  --dir DIRECTORY where the mapped file is made (default: the system's temporary directory)
  --check         exit code 3 if a target is missed
  --json          one JSON document instead of the table
  --list          names and titles of the figures

Examples:
  npm run bench
  npm run bench -- --only random --only sequential
  npm run --silent bench -- --json > bench.json
`;

const TIMEOUT_MS = 180_000;
/** More for each page of a working set: by demand it is one read of a millisecond after the other, and it is touched by two restores. */
const TIMEOUT_MS_A_PAGE = 6;

/**
 * @param {string} sentence
 * @returns {never}
 */
function usage(sentence) {
  process.stderr.write(`bench: ${sentence}\n\n${HELP}`);
  process.exit(2);
}

function readArguments() {
  try {
    return parseArgs({
      options: {
        only: { type: 'string', multiple: true, default: [] },
        quick: { type: 'boolean', default: false },
        rounds: { type: 'string' },
        'working-set': { type: 'string' },
        dir: { type: 'string' },
        check: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        list: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return usage(error instanceof Error ? error.message : String(error));
  }
}

/**
 * @param {string} name
 * @param {{ path: string, pages: number, rounds: number, quick: boolean, workingSet: number }} settings
 * @returns {Promise<import('./lib/table.js').Outcome>}
 */
async function runFigure(name, settings) {
  const { title, target } = await loadFigure(name);
  const begin = performance.now();
  const child = fork(
    fileURLToPath(new URL('./run-figure.js', import.meta.url)),
    [JSON.stringify({ name, ...settings })],
    {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    },
  );
  const patience = TIMEOUT_MS + (name === 'guest-working-set' ? settings.workingSet * TIMEOUT_MS_A_PAGE : 0);
  const timer = setTimeout(() => child.kill('SIGKILL'), patience);
  let errors = '';
  child.stdout?.resume();
  child.stderr?.setEncoding('utf8').on('data', (/** @type {string} */ text) => {
    errors += text;
  });
  /** @type {import('./lib/context.js').Result | undefined} */
  let result;
  child.on('message', (/** @type {import('./lib/context.js').Result} */ message) => {
    result = message;
  });
  const [code, signal] = await new Promise((resolve) => child.on('close', (...end) => resolve(end)));
  clearTimeout(timer);
  const seconds = (performance.now() - begin) / 1000;
  if (!result || code !== 0) {
    const lines = errors.trim().split('\n');
    const error = lines.find((line) => /Error\b.*: |floor: /.test(line)) ?? lines[0] ?? '';
    return { name, title, target, seconds, error: `${error || 'no result'} (${signal ?? `exit code ${code}`})` };
  }
  return { name, title, target, result, met: metAll(target, result), seconds };
}

const options = readArguments();
if (options.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
if (options.list) {
  for (const name of FIGURES) process.stdout.write(`${name.padEnd(24)}${(await loadFigure(name)).title}\n`);
  process.exit(0);
}
const unknown = options.only.find((name) => !FIGURES.includes(name));
if (unknown !== undefined) usage(`there is no figure "${unknown}"; the figures are ${FIGURES.join(', ')}.`);
const rounds = Number(options.rounds ?? (options.quick ? 3 : 9));
if (!Number.isInteger(rounds) || rounds < (options.quick ? 1 : 7))
  usage('--rounds must be a whole number of at least 7 (1 with --quick).');

const workingSet = Number(options['working-set'] ?? (options.quick ? 1000 : 10_000));
if (!Number.isInteger(workingSet) || workingSet < 100 || workingSet > 1_000_000)
  usage('--working-set must be a whole number of 100 to 1000000 pages.');

const pages = options.quick ? 16_384 : 65_536;
const chosen = options.only.length > 0 ? FIGURES.filter((name) => options.only.includes(name)) : FIGURES;
const file = makeFile(pages, options.dir);
process.once('exit', file.remove);
process.once('SIGINT', () => process.exit(130));
process.once('SIGTERM', () => process.exit(143));

/** @type {import('./lib/table.js').Outcome[]} */
const outcomes = [];
for (const name of chosen) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${outcomes.length + 1}/${chosen.length} ${name} …`);
  outcomes.push(await runFigure(name, { path: file.path, pages, rounds, quick: options.quick, workingSet }));
}
if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
const machine = {
  node: process.version,
  kernel: release(),
  arch: process.arch,
  cpu: cpus()[0]?.model ?? '',
  cpus: cpus().length,
};
if (options.json) {
  process.stdout.write(
    `${JSON.stringify({ pagefault: version, ...machine, rounds, quick: options.quick, figures: outcomes }, null, 2)}\n`,
  );
} else {
  const { node, kernel, arch, cpu, cpus: count } = machine;
  process.stdout.write(
    `pagefault ${version}, Node ${node}, Linux ${kernel} ${arch}, ${count} × ${cpu.trim()}, ${rounds} rounds\n\n`,
  );
  process.stdout.write(`${table(outcomes)}\n`);
}
if (outcomes.some(({ error }) => error !== undefined)) process.exitCode = 1;
else if (options.check && outcomes.some((outcome) => outcome.met === false)) process.exitCode = 3;
