import { buildRouteMap } from "@stricli/core";
import { type Federation, FederationSchema, FederationService } from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { accountArg, accountNames } from "./_iam_shared.ts";
import { metaColumns } from "./_shared.ts";

const columns: readonly Column<Federation>[] = [
  ...metaColumns<Federation>(),
  { name: "issuer", get: (f) => f.issuer },
  { name: "audience", get: (f) => f.audience },
  { name: "subject", get: (f) => f.subject },
];
const federationArgs = [...accountArg, { brief: "Federation", placeholder: "federation" }] as const;
const word = (brief: string) => ({ kind: "parsed", parse: text, brief }) as const;

interface CreateFlags {
  issuer: string;
  audience: string;
  subject: string;
  jwksFile: string;
}

export const federation = buildRouteMap({
  docs: { brief: "Outside issuers whose tokens stand for a service account of the project" },
  routes: {
    list: command<Record<never, never>, [string]>({
      brief: "List the issuers a service account trusts",
      args: accountArg,
      complete: accountNames,
      async run({ session, list }, _flags, serviceAccount) {
        const client = session.client(FederationService, "iam");
        const { federations } = await client.listFederations({ project: session.project, serviceAccount });
        await list(FederationSchema, federations, columns);
      },
    }),
    create: command<CreateFlags, [string, string]>({
      brief: "Let tokens of an outside issuer be exchanged for tokens of the service account",
      details: "iam fetches nothing: when the issuer changes its keys, delete the federation and create it anew.",
      args: federationArgs,
      complete: accountNames,
      flags: {
        issuer: word("`iss` of the tokens, exactly"),
        audience: word("`aud` of the tokens"),
        subject: word("`sub` of the tokens; a trailing * takes any ending"),
        jwksFile: word("File with the issuer's public keys, its JWK set"),
      },
      async run({ session, one }, { issuer, audience, subject, jwksFile }, serviceAccount, name) {
        const jwks = await Deno.readTextFile(jwksFile);
        const client = session.client(FederationService, "iam");
        const value = await client.createFederation({
          project: session.project,
          serviceAccount,
          name,
          issuer,
          audience,
          subject,
          jwks,
        });
        await one(FederationSchema, value, columns);
      },
    }),
    delete: command<Record<never, never>, [string, string]>({
      brief: "Trust an issuer no more",
      args: federationArgs,
      complete: accountNames,
      async run({ session, confirm, io }, _flags, serviceAccount, name) {
        confirm(`Delete the federation ${name} of ${serviceAccount}?`);
        const client = session.client(FederationService, "iam");
        await client.deleteFederation({ project: session.project, serviceAccount, name });
        io.err(`Deleted federation ${name}\n`);
      },
    }),
  },
});
