import { fault } from "@ultracloud/base";
import { type Command, parseFlags } from "./_command.ts";
import { green } from "./_term.ts";

const imageFile = "docs/images/quickstart.svg";
const page = "README.md";
/** Characters of a line that fit into a page's width. */
const columnsMax = 118;
const lineHeight = 17;
const charWidth = 7.23;
const colours = { plain: "#d5dbe5", step: "#8fa3bf", strong: "#ffffff", good: "#5fd787", warn: "#d7af5f" } as const;

/** Lines of a run as a page shows them: cut where they are too long, no blank ones at the ends. */
export function transcriptLines(command: string, output: string): string[] {
  const cut = (line: string) => line.length <= columnsMax ? line : `${line.slice(0, columnsMax - 4).trimEnd()} ...`;
  // deno-lint-ignore no-control-regex -- colours of a terminal begin with it
  const plain = output.replaceAll(/\x1b\[[0-9;]*m/g, "");
  const lines = plain.split("\n").filter((line) => !/^Task quickstart/.test(line)).map((line) => line.trimEnd());
  return [`$ ${command}`, ...lines.join("\n").trim().split("\n").map(cut)];
}

const escape = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** The lines in a terminal, as an image. */
export function terminalSvg(lines: readonly string[], label: string): string {
  const width = Math.ceil(40 + columnsMax * charWidth);
  const height = 40 + lines.length * lineHeight + 10;
  const text = (line: string, i: number): string => {
    const strong = /^\$ |^COMPONENT |^OK in /.test(line);
    const fill = line.startsWith("OK in ")
      ? colours.good
      : strong
      ? colours.strong
      : line.startsWith("[")
      ? colours.step
      : / is partial | is not enforced | has no way in|^not done/.test(line)
      ? colours.warn
      : undefined;
    const attributes = [
      ...(fill === undefined ? [] : [`fill="${fill}"`]),
      ...(strong ? ['font-weight="bold"'] : []),
    ];
    const health = /^([a-z-]+ +)(ready)( +http.*)$/.exec(line);
    const inner = health === null
      ? escape(line)
      : `${health[1]}<tspan fill="${colours.good}">${health[2]}</tspan>${escape(health[3]!)}`;
    const head = `<text x="20" y="${52 + i * lineHeight}"${attributes.map((one) => ` ${one}`).join("")}`;
    return `    ${head} xml:space="preserve">${inner}</text>`;
  };
  const dots = [["20", "#ff5f57"], ["38", "#febc2e"], ["56", "#28c840"]]
    .map(([x, fill]) => `  <circle cx="${x}" cy="18" r="5.5" fill="${fill}" />`);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img"`,
    `  aria-label="${escape(label)}">`,
    `  <rect width="${width}" height="${height}" rx="8" fill="#11151c" />`,
    ...dots,
    `  <g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="12"`,
    `    fill="${colours.plain}">`,
    ...lines.flatMap((line, i) => line === "" ? [] : [text(line, i)]),
    "  </g>",
    "</svg>",
    "",
  ].join("\n");
}

/** The page with the lines in the block behind its image. */
export function withTranscript(text: string, lines: readonly string[]): string {
  const block = /(<details><summary>the same as text<\/summary>\n\n```text\n)[\s\S]*?(\n```\n)/;
  if (!block.test(text)) {
    throw fault("failed_precondition", "no_block", `Cannot find the block of the sample run in ${page}`);
  }
  return text.replace(block, (_, head: string, tail: string) => `${head}${lines.join("\n")}${tail}`);
}

/** Shows the README's reader a run that has taken place. */
export const quickstartImageCommand: Command = {
  name: "quickstart-image",
  help: `deno run -A cli/dev/main.ts quickstart-image [--port-offset N]

Runs the quickstart and puts what it printed into ${page} and ${imageFile}. A run that fails changes nothing.`,
  async run(args, root) {
    const { values } = parseFlags({
      args: [...args],
      options: { "port-offset": { type: "string", default: "2000" } },
    });
    const words = ["quickstart", "--port-offset", values["port-offset"]];
    const child = await new Deno.Command("sh", {
      args: ["-c", 'exec "$0" "$@" 2>&1', Deno.execPath(), "task", "-q", ...words],
      cwd: root,
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
    }).output();
    const output = new TextDecoder().decode(child.stdout);
    if (child.code !== 0) {
      throw fault("failed_precondition", "quickstart_failed", `Cannot show a run that failed:\n${output}`);
    }
    const command = `deno task ${words.join(" ")}`;
    const lines = transcriptLines(command, output);
    const text = withTranscript(await Deno.readTextFile(`${root}/${page}`), lines);
    await Deno.writeTextFile(`${root}/${imageFile}`, terminalSvg(lines, `Output of ${command}`));
    await Deno.writeTextFile(`${root}/${page}`, text);
    console.log(`${green("ok")} ${lines.length} lines into ${page} and ${imageFile}`);
    return 0;
  },
};
