package aws

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smithyrand "github.com/aws/smithy-go/rand"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/remote"
)

// written is the staging label of the version that was written last from here.
const written = "gatehouse"

// Change writes what by makes of the versions as a new version of the secret, and makes it the current one
// if the one that was read still is. Its other fields stay as they are.
//
// PutSecretValue alone would make it current whatever has happened since the read, and the version of
// another who rotates at the same time would be lost. So it is written with a label of its own, which
// nobody reads, and UpdateSecretVersionStage, which compares, moves AWSCURRENT.
func (s *store) Change(ctx context.Context, by func(old []secret.Version) ([]secret.Version, error)) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.turn.Give()
	reading, cancel := context.WithTimeout(ctx, remote.StepTime)
	defer cancel()
	now, old, err := s.versions(reading)
	if err != nil {
		return err
	}
	next, err := by(old)
	if err != nil {
		return err
	}
	content, err := s.contentOf(now, next)
	if err != nil {
		return err
	}
	version, err := s.put(ctx, now, content)
	if err != nil {
		return err
	}
	return s.move(ctx, aws.ToString(now.VersionId), version)
}

// contentOf is the content of the secret with other versions.
func (s *store) contentOf(now *secretsmanager.GetSecretValueOutput, versions []secret.Version) ([]byte, error) {
	content, err := secret.Format(versions)
	if err != nil || s.Field == "" {
		return content, err
	}
	fields, err := members(whole(now))
	if err != nil {
		return nil, err
	}
	if fields, err = remote.Put(fields, s.Field, content); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err = enc.Encode(fields); err != nil {
		return nil, fmt.Errorf("encoding the fields: %w", err)
	}
	if b.Len() > secret.MaxContent {
		return nil, fmt.Errorf("the secret would have more than %d KiB, which is the most that AWS takes: remove versions whose time is over", secret.MaxContent>>10)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// put writes a version that is not current. The SDK tries again with the same token, so there is one.
func (s *store) put(ctx context.Context, now *secretsmanager.GetSecretValueOutput, content []byte) (version string, err error) {
	token, err := smithyrand.NewUUID(rand.Reader).GetUUID()
	if err != nil {
		return "", fmt.Errorf("making the ID of the new version: %w", err)
	}
	in := &secretsmanager.PutSecretValueInput{SecretId: aws.String(s.SecretID), ClientRequestToken: aws.String(token), VersionStages: []string{written}}
	if now.SecretString != nil {
		in.SecretString = aws.String(string(content))
	} else {
		in.SecretBinary = content
	}
	ctx, cancel := context.WithTimeout(ctx, remote.StepTime)
	defer cancel()
	if _, err = s.api.PutSecretValue(ctx, in); err != nil {
		return "", fmt.Errorf("writing %s to AWS Secrets Manager: %w; nothing has changed", s.SecretID, explainWrite(ctx, err))
	}
	return token, nil
}

// move makes a version current that follows another. Where the answer is lost it looks which one is.
func (s *store) move(ctx context.Context, before, version string) error {
	moving, cancel := context.WithTimeout(ctx, remote.StepTime)
	defer cancel()
	_, err := s.api.UpdateSecretVersionStage(moving, &secretsmanager.UpdateSecretVersionStageInput{
		SecretId: aws.String(s.SecretID), VersionStage: aws.String(current), MoveToVersionId: aws.String(version), RemoveFromVersionId: aws.String(before),
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("making the new version of %s in AWS Secrets Manager the current one: %w", s.SecretID, explainWrite(moving, err))
	looking, cancel := context.WithTimeout(ctx, remote.StepTime)
	defer cancel()
	now, lost := s.get(looking, current)
	switch {
	case lost != nil:
		return fmt.Errorf("%w; whether it is that is not known (%w): it is in force as soon as it is read, see gatehouse secrets status", err, lost)
	case aws.ToString(now.VersionId) == version:
		return nil
	case aws.ToString(now.VersionId) == before:
		return fmt.Errorf("%w; nothing has changed", err)
	}
	return fmt.Errorf("another has changed %s in AWS Secrets Manager meanwhile, and that change stays: look at it with gatehouse secrets status, and try again", s.SecretID)
}

// Interface guard
var _ secret.Store = (*store)(nil)
