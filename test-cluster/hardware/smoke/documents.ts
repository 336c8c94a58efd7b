import { failureMarkers, markerNames, markerPattern, noticeMarkers } from "@ultracloud/cluster-state";
import { formatCmdline } from "@ultracloud/bootstrap";
import { type Inputs, inputTexts } from "./inputs.ts";
import type { Missing, Plan } from "./requirements.ts";

/** Stands for the token wherever an artifact would show it. */
const tokenWords = (inputs: Inputs) => `<the content of ${inputs["token-file"] ?? "--token-file"}>`;

/** The words for the kernel, the token left out; what is missing is named in its place. */
export function kernelParams(inputs: Inputs): string {
  const shown = {
    deployer_url: inputs["deployer-url"] ?? "<--deployer-url>",
    bootstrap_token: tokenWords(inputs),
    ca_cert_url: inputs["ca-cert-url"],
    ca_sha256: inputs["ca-sha256"],
    binary_cache_url: inputs["binary-cache-url"],
    node_id: inputs["node"] ?? "<--node>",
    hostname: inputs["hostname"],
  };
  return formatCmdline(shown).replaceAll(" ultracloud.", "\nultracloud.");
}

/** The lines of a console in the order in which a good installation shows them. */
export function expectedMarkers(inputs: Inputs): string {
  return markerNames.map((name) => markerPattern(name, inputs["node"])).join("\n");
}

/** The lines of a console that end a run, each under the step it stands for, then those that only tell. */
export function failureMarkerLines(inputs: Inputs): string {
  const of = (name: Parameters<typeof markerPattern>[0]) => markerPattern(name, inputs["node"]);
  return [
    ...Object.values(failureMarkers).map(of),
    of("desired-system-rolled-back"),
    "",
    "# no failure: the machine waits for `uc deployer node approve`",
    ...noticeMarkers.filter((name) => name !== "desired-system-rolled-back").map(of),
  ].join("\n");
}

/** Every missing input with the reason, one a line. */
export function missingText(missing: readonly Missing[]): string {
  return missing.length === 0 ? "" : missing.map(({ input, reason }) => `${input}: ${reason}`).join("\n");
}

/** The given inputs, none of which is a secret: paths of secrets are. */
export function inputsJson(inputs: Inputs): string {
  return JSON.stringify(inputs, null, 2);
}

/** What the next person needs who has this directory and nothing else. */
export function operatorHandoff(
  o: {
    readonly run: string;
    readonly inputs: Inputs;
    readonly plan: Plan | undefined;
    readonly missing: readonly Missing[];
  },
): string {
  const { run, inputs, plan, missing } = o;
  const node = inputs["node"] ?? "NODE";
  const given = Object.entries(inputs).map(([name, value]) => `--${name} ${value}`).join(" \\\n  ");
  const stands = missing.length === 0
    ? "Ready: every input is there and was checked."
    : ["Blocked. Wanted:", "", ...missing.map(({ input, reason }) => `- \`${input}\`: ${reason}`)].join("\n");
  const transport = plan === undefined
    ? "1. Give the missing inputs; `deno task hardware-smoke preflight` tells when they suffice."
    : plan.transport.kind === "redfish"
    ? `1. \`deno task hardware-smoke run\` inserts the image at ${plan.transport.address.url}, boots it once and waits.`
    : `1. \`deno task hardware-smoke run\` writes ${plan.transport.device}; put it into the machine and boot from it.`;
  return `# hardware-smoke ${run}

${stands}

## Steps

${transport}
2. The machine shows the lines of \`expected-markers.txt\` in order, on its console and at the deployer.
   \`uc deployer node inspect ${node}\` shows what the deployer has of them.
3. A line of \`failure-markers.txt\` ends the run; its cause stands behind the name.
   With \`pre-install.phone-home.pending\` the machine waits for \`uc deployer node pending\` and \`approve\`.
4. \`deno task hardware-smoke capture\` collects the serial log, the deployer's record and the BMC's logs at any time.

The token is one-shot, bound to the node and short-lived: once it was used or ran out, \`uc deployer node rotate-token
${node}\` makes another one.

## Inputs

\`\`\`
deno task hardware-smoke run \\
  ${given === "" ? "(none)" : given}
\`\`\`

${Object.entries(inputTexts).map(([name, text]) => `- \`--${name}\`: ${text}`).join("\n")}
`;
}
