// Package aws reads a secret set from AWS Secrets Manager, and writes it.
package aws

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go/logging"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/remote"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	current  = "AWSCURRENT"
	previous = "AWSPREVIOUS"
	// requestTimeout bounds a fetch whose context has no nearer end, the tries of the SDK included.
	requestTimeout = 30 * time.Second
	maxSecretID    = 2048
	// maxName is how much of a secret's name, in bytes, a label shows: its end.
	maxName = 50
)

// Config says which secret it is. The credentials are those that the AWS SDK finds: environment
// variables, shared files, a web identity, the container's or the instance's role. They need
// secretsmanager:GetSecretValue on the secret, and kms:Decrypt if it has a key of its own. To rotate it
// they need secretsmanager:PutSecretValue, secretsmanager:UpdateSecretVersionStage and
// kms:GenerateDataKey besides.
type Config struct {
	// SecretID is the secret's name or whole ARN. Required.
	SecretID string `json:"secret_id"`
	// Region is the secret's region. Default: that of the ARN, else what the SDK finds, such as AWS_REGION.
	Region string `json:"region,omitempty"`
	// Field is the member of the secret's JSON object that holds the value. Default: all of the secret is the value.
	Field string `json:"field,omitempty"`
	// Endpoint is another URL of the service: https, or http on this machine. Default: the region's.
	Endpoint string `json:"endpoint,omitempty"`
	// Overlap is how long the version AWSPREVIOUS goes on verifying, counted from the creation of the
	// version AWSCURRENT. Default: 0, AWSCURRENT alone is valid.
	Overlap unit.Duration `json:"-"`
}

// Validate says what is wrong with the settings.
func (c Config) Validate() error {
	parts := strings.Split(c.SecretID, ":")
	isARN := parts[0] == "arn"
	switch {
	case c.SecretID == "" || len(c.SecretID) > maxSecretID || strings.ContainsAny(c.SecretID, " \t\r\n"):
		return errors.New("secret_id must be the secret's name or ARN, such as prod/gatehouse/jwt")
	case isARN && (len(parts) != 7 || parts[2] != "secretsmanager" || parts[3] == ""):
		return errors.New("secret_id begins with arn: but is no ARN of a secret, write arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME")
	case isARN && c.Region != "" && c.Region != parts[3]:
		return fmt.Errorf("region %.40q is not that of the ARN, %.40q: leave out region", c.Region, parts[3])
	case c.Region != "" && strings.ContainsFunc(c.Region, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }):
		return fmt.Errorf("region %.40q must be one such as eu-west-1", c.Region)
	case c.Endpoint != "":
		return remote.CheckURL("endpoint", c.Endpoint)
	}
	return nil
}

func (c Config) region() string {
	if parts := strings.Split(c.SecretID, ":"); parts[0] == "arn" && len(parts) == 7 {
		return parts[3]
	}
	return c.Region
}

// store is one secret.
type store struct {
	Config
	now  func() time.Time
	turn remote.Turn // of the fetch or change that alone uses what follows
	api  *secretsmanager.Client
}

// New is the set's source. It looks for credentials and asks the service when it is first read.
func New(c Config) (secret.Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &store{Config: c, now: time.Now, turn: remote.NewTurn()}, nil
}

// Fetch reads the current version, and the previous one while the overlap keeps it.
func (s *store) Fetch(ctx context.Context) ([]secret.Version, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.turn.Give()
	_, versions, err := s.versions(ctx)
	return versions, err
}

// begin takes the turn, and connects the store.
func (s *store) begin(ctx context.Context) error {
	if err := s.turn.Take(ctx); err != nil {
		return err
	}
	err := s.connect(ctx)
	if err != nil {
		s.turn.Give()
	}
	return err
}

// versions are those of AWSCURRENT, and of AWSPREVIOUS while the overlap keeps it.
func (s *store) versions(ctx context.Context) (now *secretsmanager.GetSecretValueOutput, versions []secret.Version, err error) {
	if now, err = s.get(ctx, current); err != nil {
		return nil, nil, err
	}
	versions, err = s.parse(now)
	created := aws.ToTime(now.CreatedDate)
	if err != nil || s.Overlap <= 0 || !created.Add(s.Overlap.Std()).After(s.now()) {
		return now, versions, err
	}
	before, err := s.get(ctx, previous)
	if errors.Is(err, errNotFound) { // it has never been rotated
		return now, versions, nil
	}
	if err != nil {
		return nil, nil, err
	}
	// What cannot be read of it is no reason to refuse the current one.
	if replaced, err := s.parse(before); err == nil {
		versions = remote.Before(versions, replaced, created, s.Overlap.Std(), s.label(before))
	}
	return now, versions, nil
}

// connect makes the client, with the credentials that are found now.
func (s *store) connect(ctx context.Context) error {
	if s.api != nil {
		return nil
	}
	options := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{})} // it would write to standard error
	if region := s.region(); region != "" {
		options = append(options, config.WithRegion(region))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return errors.New("the settings of the AWS SDK cannot be used: check ~/.aws/config and the environment variables that begin with AWS_") // its own error may hold a line of a file
	}
	if loaded.Region == "" {
		return errors.New("no region is known for AWS Secrets Manager: give region, such as eu-west-1, or set AWS_REGION")
	}
	s.api = secretsmanager.NewFromConfig(loaded, func(o *secretsmanager.Options) {
		if s.Endpoint != "" {
			o.BaseEndpoint = aws.String(s.Endpoint)
		}
		o.Credentials = chain{o.Credentials}
		o.HTTPClient = bounded{unmoved(o.HTTPClient)}
	})
	return nil
}

func (s *store) get(ctx context.Context, stage string) (*secretsmanager.GetSecretValueOutput, error) {
	out, err := s.api.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: aws.String(s.SecretID), VersionStage: aws.String(stage)})
	if err != nil {
		return nil, fmt.Errorf("reading %s of %s from AWS Secrets Manager: %w", stage, s.SecretID, explain(ctx, err))
	}
	return out, nil
}

func (s *store) label(out *secretsmanager.GetSecretValueOutput) string {
	name := aws.ToString(out.Name)
	if name == "" {
		name = s.SecretID
	}
	if cut := len(name) - maxName; cut > 0 {
		name = name[cut:]
	}
	return "aws:" + name + "#" + aws.ToString(out.VersionId)
}

func (s *store) parse(out *secretsmanager.GetSecretValueOutput) ([]secret.Version, error) {
	content := whole(out)
	where := fmt.Sprintf("%s in AWS Secrets Manager", s.SecretID)
	if s.Field != "" {
		fields, err := members(content)
		if err == nil {
			content, err = remote.Field(fields, s.Field)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		where = fmt.Sprintf("the field %q of %s", s.Field, where)
	}
	versions, err := secret.Parse(s.label(out), content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return versions, nil
}

// whole is all of a version's content.
func whole(out *secretsmanager.GetSecretValueOutput) []byte {
	if out.SecretString != nil {
		return []byte(*out.SecretString)
	}
	return out.SecretBinary
}

// members are the fields of a JSON secret.
func members(content []byte) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(content, &fields) != nil || fields == nil {
		return nil, remote.ErrNoObject
	}
	return fields, nil
}

// unmoved follows no redirect, which the service does not use: the SDK's own client would believe
// whatever server it is sent to.
func unmoved(c secretsmanager.HTTPClient) secretsmanager.HTTPClient {
	sdk, ok := c.(interface{ GetTransport() *http.Transport })
	if !ok {
		return c
	}
	return &http.Client{Transport: sdk.GetTransport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// bounded keeps answers from being larger than any secret is.
type bounded struct{ next secretsmanager.HTTPClient }

// Do makes the request, from a copy of its body. The SDK closes the body that it made as soon as there is
// an answer: a connection that has not yet seen its end then breaks, and the answer with it.
func (b bounded) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		_ = r.Body.Close()
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := b.next.Do(r)
	if err == nil && resp != nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, remote.MaxBody)
	}
	return resp, err
}
