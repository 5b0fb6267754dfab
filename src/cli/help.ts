/** The help texts, written from the command table: examples first. */
import { type Command, type Option, optionsOf } from './command.js';

/** `pagefault --help`. */
export function generalHelp(commands: readonly Command[]): string {
  const width = Math.max(...commands.map((command) => command.name.length));
  return [
    'pagefault: an ArrayBuffer whose pages come from a file or a store of your own, when they are touched',
    '',
    'Examples:',
    ...commands.flatMap((command) => command.examples.slice(0, 1).map((example) => `  ${example.line}`)),
    '',
    'Commands:',
    ...commands.map((command) => `  ${command.name.padEnd(width)}  ${command.summary}`),
    '',
    'Options:',
    '  --version, -v  print the version',
    '  --help, -h     this text; pagefault COMMAND --help for one command',
    '',
    'Exit codes: 0 ok, 1 failure, 2 wrong command line, 3 what was read differs, 4 not supported here, 130 interrupted, 143 terminated',
  ].join('\n');
}

/** `pagefault COMMAND --help`. */
export function commandHelp(command: Command): string {
  const arguments_ = command.positionals.map((name) => ` ${name}`).join('');
  return [
    `pagefault ${command.name}: ${command.summary}`,
    '',
    'Examples:',
    ...command.examples.flatMap((example) => [`  ${example.line}`, `      ${example.what}`]),
    '',
    `Usage: pagefault ${command.name}${arguments_} [options]`,
    '',
    'Options:',
    ...optionLines(optionsOf(command)),
  ].join('\n');
}

function optionLines(options: Readonly<Record<string, Option>>): string[] {
  const left = Object.entries(options).map(([name, option]) => {
    const value = option.value === undefined ? '' : ` ${option.value}`;
    const short = option.short === undefined ? '' : `, -${option.short}`;
    return { shown: `--${name}${short}${value}`, help: option.help };
  });
  const width = Math.max(...left.map((entry) => entry.shown.length));
  return left.map((entry) => `  ${entry.shown.padEnd(width)}  ${entry.help}`);
}
