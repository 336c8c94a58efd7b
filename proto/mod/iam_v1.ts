export * from "../gen/ultracloud/iam/v1/iam_pb.ts";
