import { buildRouteMap } from "@stricli/core";
import { type AccessKey, AccessKeySchema, AccessKeyService } from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { accountArg, accountNames, at } from "./_iam_shared.ts";

const keyColumns: readonly Column<AccessKey>[] = [
  { name: "id", get: (k) => k.id },
  { name: "created", get: (k) => at(k.createTime) },
];
const keyArgs = [...accountArg, { brief: "Access key id", placeholder: "key" }] as const;
const word = (brief: string) => ({ kind: "parsed", parse: text, brief }) as const;

export const accessKey = buildRouteMap({
  docs: { brief: "S3-style access keys of a service account of the project" },
  routes: {
    list: command<Record<never, never>, [string]>({
      brief: "List the access keys of a service account",
      args: accountArg,
      complete: accountNames,
      async run({ session, list }, _flags, serviceAccount) {
        const client = session.client(AccessKeyService, "iam");
        const { keys } = await client.listAccessKeys({ project: session.project, serviceAccount });
        await list(AccessKeySchema, keys, keyColumns);
      },
    }),
    create: command<Record<never, never>, [string]>({
      brief: "Make an access key; the secret is shown this once",
      details: "Two keys may be in use at once: make the new one, change the programs, delete the old one.",
      args: accountArg,
      complete: accountNames,
      async run({ session, items }, _flags, serviceAccount) {
        const client = session.client(AccessKeyService, "iam");
        const { key, secret } = await client.createAccessKey({ project: session.project, serviceAccount });
        const value = { id: key?.id ?? "", secret };
        await items([{ value, json: value, name: value.id }], [
          { name: "access_key_id", get: (k) => k.id },
          { name: "secret", get: (k) => k.secret },
        ], true);
      },
    }),
    delete: command<Record<never, never>, [string, string]>({
      brief: "Delete an access key; what is signed with it is refused",
      args: keyArgs,
      complete: accountNames,
      async run({ session, confirm, io }, _flags, serviceAccount, keyId) {
        confirm(`Delete the access key ${keyId}?`);
        const client = session.client(AccessKeyService, "iam");
        await client.deleteAccessKey({ project: session.project, serviceAccount, keyId });
        io.err(`Deleted access key ${keyId}\n`);
      },
    }),
    derive: command<{ date: string; region: string; service: string }, [string]>({
      brief: "Derive the signing key of a day, region and service (AWS Signature Version 4), for operators",
      details: "Written as base64. Whoever has it signs as the service account for that day, region and service.",
      args: [{ brief: "Access key id", placeholder: "key" }],
      flags: { date: word("YYYYMMDD"), region: word("us-east-1"), service: word("s3") },
      async run({ session, items }, { date, region, service }, keyId) {
        const answer = await session.client(AccessKeyService, "iam").deriveSigningKey({
          keyId,
          date,
          region,
          service,
        });
        const value = { principal: answer.principal, signingKey: answer.signingKey.toBase64() };
        await items([{ value, json: value, name: keyId }], [
          { name: "principal", get: (k) => k.principal },
          { name: "signing_key", get: (k) => k.signingKey },
        ], true);
      },
    }),
  },
});
