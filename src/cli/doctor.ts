/** `pagefault doctor`: what this kernel, process and runtime allow, and how to get what they do not. Main thread. */

import { constants } from 'node:buffer';
import { reasonOf } from '../errors/reason.js';
import { probe } from '../native/load.js';
import { formatBytes, formatCount, type Style, type Terminal } from '../observe/index.js';
import { chooseBackend } from '../segment/backend.js';
import type { Command } from './command.js';
import { type Access, type BackendDiagnosis, type Diagnosis, diagnose } from './diagnose.js';
import { codeOf, EXIT, type ExitCode } from './exit.js';

/** Node 22 and later name 2^53-1; what a 64-bit address space can hold is less. */
const ADDRESSABLE = 2 ** 45;
const LABEL_WIDTH = 28;

interface Runtime {
  node: string;
  platform: string;
  /** Bytes of the largest ArrayBuffer. */
  largestBuffer: number;
}

type Report = { runtime: Runtime; diagnosis: Diagnosis } | { runtime: Runtime; code: string; message: string };

function examine(): Report {
  const runtime: Runtime = {
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    largestBuffer: Math.min(constants.MAX_LENGTH, ADDRESSABLE),
  };
  try {
    return { runtime, diagnosis: diagnose(probe()) };
  } catch (error) {
    return { runtime, code: codeOf(error), message: reasonOf(error) };
  }
}

/** The JSON document: flat, the same keys whether anything works or not. */
function toDocument(report: Report): unknown {
  if ('diagnosis' in report) return { ...report.diagnosis, runtime: report.runtime };
  return { supported: false, runtime: report.runtime, error: { code: report.code, message: report.message } };
}

function render(report: Report, terminal: Terminal): string[] {
  const { runtime } = report;
  const heading = (text: string): string => terminal.paint('bold', text);
  const lines = [
    heading('Runtime'),
    row('Node.js', `${runtime.node} (${runtime.platform})`),
    row('largest buffer', formatBytes(runtime.largestBuffer)),
  ];
  if (!('diagnosis' in report)) return [...lines, '', verdict()];

  const { diagnosis } = report;
  const yes = (value: boolean): string => (value ? 'yes' : 'no');
  lines.push(
    row('external SharedArrayBuffer', yes(diagnosis.externalSharedArrayBuffer)),
    '',
    heading('Kernel'),
    row('Linux', `${diagnosis.kernel} (${diagnosis.arch})`),
    row('page size', formatBytes(diagnosis.pageSize)),
    row('userfaultfd, user mode', accessText(diagnosis.userfaultfd.userMode)),
    row('userfaultfd, kernel mode', accessText(diagnosis.userfaultfd.kernelMode)),
    row('/dev/userfaultfd', accessText(diagnosis.userfaultfd.device)),
    ...wrap(diagnosis.userfaultfd.features, terminal.columns - LABEL_WIDTH - 2).map((text, i) =>
      row(i === 0 ? 'userfaultfd features' : '', text),
    ),
    row('mprotect on a memfd', accessText(diagnosis.mprotect)),
    row('seccomp', diagnosis.seccomp),
    row('vm.max_map_count', diagnosis.maxMapCount === 0 ? 'unreadable' : formatCount(diagnosis.maxMapCount)),
    row('vectored madvise', yes(diagnosis.vectoredMadvise)),
    '',
    heading('Backends'),
    ...diagnosis.backends.flatMap((backend) => backendLines(backend, terminal)),
  );
  if (diagnosis.advice.length > 0) {
    lines.push('', heading('Advice'), ...diagnosis.advice.map((text) => `  - ${text}`));
  }
  return [...lines, '', verdict()];
}

/** The last line: whether anything can be paged, and which backend is picked. */
function verdict(): string {
  try {
    const { backend, reason } = chooseBackend({ backend: 'auto', writable: false, kernelFaults: false }, probe());
    return `pagefault works here. Backend 'auto' is ${backend}: ${reason}.`;
  } catch (error) {
    return `pagefault cannot work here: ${reasonOf(error)}`;
  }
}

function row(label: string, value: string): string {
  return `  ${label.padEnd(LABEL_WIDTH)}${value}`;
}

function accessText(access: Access): string {
  return access.works ? 'allowed' : `refused (${access.errno})`;
}

/** Words in lines of at most `width` characters, or one word. */
function wrap(words: readonly string[], width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of words) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = '';
    }
    line = line === '' ? word : `${line} ${word}`;
  }
  return line === '' ? lines : [...lines, line];
}

function sign(works: BackendDiagnosis['works'], terminal: Terminal): string {
  const signs: Record<BackendDiagnosis['works'], { style: Style; unicode: string; ascii: string }> = {
    yes: { style: 'green', unicode: '✓', ascii: '+' },
    no: { style: 'red', unicode: '✗', ascii: 'x' },
    later: { style: 'gray', unicode: '-', ascii: '-' },
  };
  const { style, unicode, ascii } = signs[works];
  return terminal.paint(style, terminal.unicode ? unicode : ascii);
}

function backendLines(backend: BackendDiagnosis, terminal: Terminal): string[] {
  const line = `  ${sign(backend.works, terminal)} ${backend.name.padEnd(9)} ${backend.reason}`;
  return [line, ...backend.fixes.map((fix) => `${' '.repeat(14)}${terminal.paint('yellow', 'fix:')} ${fix}`)];
}

export const doctor: Command = {
  name: 'doctor',
  summary: 'what this kernel, process and runtime allow, and how to fix what they do not',
  positionals: [],
  options: {},
  examples: [
    { line: 'pagefault doctor', what: 'a report to read; exit code 4 when nothing can be paged here' },
    { line: 'pagefault doctor --json', what: 'the same for a script' },
  ],
  async run(_args, output): Promise<ExitCode> {
    const report = examine();
    output.result(toDocument(report), () => render(report, output.terminal));
    return 'diagnosis' in report && report.diagnosis.supported ? EXIT.ok : EXIT.unsupported;
  },
};
