package aws

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

var errNotFound = errors.New("there is no such secret in this region and account, or none of its versions is in this stage: create it, or correct secret_id and region")

// advice says what to do about the service's errors. Their own sentences are not shown: that of a
// wrong signature repeats the session's token.
var advice = map[string]string{
	"AccessDeniedException":          "the credentials may not read it: allow them secretsmanager:GetSecretValue on it, and kms:Decrypt on its key",
	"DecryptionFailure":              "it cannot be decrypted: allow the credentials kms:Decrypt on the key of the secret, and see whether the key is enabled",
	"InvalidRequestException":        "it is marked for deletion, or has no version yet: restore it or write a value",
	"InvalidParameterException":      "correct secret_id",
	"ValidationException":            "correct secret_id",
	"UnrecognizedClientException":    "the credentials are not known: correct them",
	"InvalidClientTokenId":           "the credentials are not known: correct them",
	"InvalidSignatureException":      "the secret access key is wrong, or the clock of this machine is",
	"SignatureDoesNotMatch":          "the secret access key is wrong, or the clock of this machine is",
	"IncompleteSignature":            "the credentials are not whole: correct them",
	"ExpiredTokenException":          "the session of the credentials has ended: renew it",
	"ExpiredToken":                   "the session of the credentials has ended: renew it",
	"RequestExpired":                 "set the clock of this machine",
	"ThrottlingException":            "too many requests of this account: poll less often",
	"InternalServiceError":           "the service has failed, the next read tries again",
	"InternalServiceErrorException":  "the service has failed, the next read tries again",
	"ServiceUnavailable":             "the service has failed, the next read tries again",
	"InvalidIdentityToken":           "the web identity is not accepted: check the role's trust policy",
	"InvalidEndpointException":       "correct endpoint",
	"MissingAuthenticationToken":     "the credentials are not whole: correct them",
	"MissingAuthenticationException": "the credentials are not whole: correct them",
}

// writeAdvice is advice about a write, where it is another.
var writeAdvice = map[string]string{
	"AccessDeniedException":     "the credentials may not write it: allow them secretsmanager:PutSecretValue and secretsmanager:UpdateSecretVersionStage on it, and kms:GenerateDataKey and kms:Decrypt on its key",
	"EncryptionFailure":         "it cannot be encrypted: allow the credentials kms:GenerateDataKey on the key of the secret, and see whether the key is enabled",
	"InvalidRequestException":   "it is marked for deletion, or a copy from another region: restore it, or rotate it in its own region",
	"LimitExceededException":    "it has too many versions: wait a day, in which AWS removes old ones",
	"InvalidParameterException": "AWS does not take it, such as because another version is the current one by now",
}

// chain tells the failures of the credentials from those of the service.
type chain struct{ aws.CredentialsProvider }

// Retrieve gives the credentials.
func (c chain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if c.CredentialsProvider == nil {
		return aws.Credentials{}, credentialsError{errors.New("there is no source of them")}
	}
	got, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return got, credentialsError{err}
	}
	return got, nil
}

// credentialsError never shows the error beneath, which may hold what a file or a program said.
type credentialsError struct{ err error }

func (credentialsError) Error() string { return "the AWS SDK finds no credentials" }

func (e credentialsError) Unwrap() error { return e.err }

// explainWrite is explain for a write.
func explainWrite(ctx context.Context, err error) error {
	var api smithy.APIError
	_, noCredentials := errors.AsType[credentialsError](err)
	if !noCredentials && ctx.Err() == nil && errors.As(err, &api) {
		if do := writeAdvice[api.ErrorCode()]; do != "" {
			return fmt.Errorf("%.80s: %s", api.ErrorCode(), do)
		}
	}
	return explain(ctx, err)
}

// explain is the error in words of our own.
func explain(ctx context.Context, err error) error {
	var api smithy.APIError
	isAPI := errors.As(err, &api)
	_, noCredentials := errors.AsType[credentialsError](err)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it has not answered in time: %w", ctx.Err())
	case noCredentials && isAPI:
		return fmt.Errorf("%w: AWS refuses those of the role with %.80q, check its trust policy", credentialsError{}, api.ErrorCode())
	case noCredentials:
		return fmt.Errorf("%w: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, a web identity or a role of the container or the instance", credentialsError{})
	case isAPI && api.ErrorCode() == "ResourceNotFoundException":
		return errNotFound
	case isAPI:
		if do := advice[api.ErrorCode()]; do != "" {
			return fmt.Errorf("%.80s: %s", api.ErrorCode(), do)
		}
		return fmt.Errorf("it answered with the error %.80q", api.ErrorCode())
	}
	if send, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		cause := send.Err
		if u, ok := errors.AsType[*url.Error](cause); ok {
			cause = u.Err
		}
		return fmt.Errorf("it cannot be reached, check region, endpoint and network: %w", cause)
	}
	if resp, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return fmt.Errorf("it answered %d with what is no answer of Secrets Manager: check endpoint, and what stands between", resp.HTTPStatusCode())
	}
	return errors.New("the request could not be made: check region and endpoint")
}
