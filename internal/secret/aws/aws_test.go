package aws

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// double answers GetSecretValue, PutSecretValue and UpdateSecretVersionStage as AWS Secrets Manager does,
// as far as its API reference describes them
// (docs.aws.amazon.com/secretsmanager/latest/apireference, AWS JSON 1.1). It is written from it, as there
// is no server of AWS to be had. It checks that a request is signed, not the signature.
type double struct {
	t      *testing.T
	url    string
	asked  atomic.Int64
	answer http.HandlerFunc // in place of the rest

	mu       sync.Mutex
	stages   map[string]map[string]any
	versions map[string]map[string]any // by ID, those that were put
	calls    []string
	cut      map[string]int // how many answers of an action are cut off when it is done
}

func newDouble(t *testing.T) *double {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "sesame-access", "AWS_SESSION_TOKEN": "sesame-session",
		"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
		"AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "credentials"),
	} {
		t.Setenv(name, value)
	}
	d := &double{t: t, stages: map[string]map[string]any{}, versions: map[string]map[string]any{}, cut: map[string]int{}}
	s := httptest.NewServer(d)
	t.Cleanup(s.Close)
	d.url = s.URL
	return d
}

func (d *double) put(stage, id, value string, created time.Time) {
	d.stages[stage] = map[string]any{
		"ARN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/jwt-a1b2c3", "Name": "prod/jwt", "VersionId": id,
		"VersionStages": []string{stage}, "SecretString": value, "CreatedDate": float64(created.UnixMilli()) / 1000,
	}
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.asked.Add(1)
	if d.answer != nil {
		d.answer(w, r)
		return
	}
	d.serve(w, r)
}

func (d *double) serve(w http.ResponseWriter, r *http.Request) {
	action, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	if !ok {
		d.t.Errorf("the target is %q", r.Header.Get("X-Amz-Target"))
	}
	if auth := r.Header.Get("Authorization"); !strings.Contains(auth, "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/") || !strings.Contains(auth, "/eu-west-1/secretsmanager/aws4_request") {
		d.t.Errorf("the signature is %q", auth)
	}
	var in request
	_ = json.NewDecoder(r.Body).Decode(&in)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, action)
	var out map[string]any
	code := ""
	switch {
	case !strings.HasSuffix(in.SecretID, "prod/jwt"):
		code = "ResourceNotFoundException"
	case action == "GetSecretValue":
		if out, ok = d.stages[in.VersionStage]; !ok {
			code = "ResourceNotFoundException"
		}
	case action == "PutSecretValue":
		out, code = d.putValue(in)
	case action == "UpdateSecretVersionStage":
		out, code = d.moveStage(in)
	default:
		d.t.Errorf("the action is %q", action)
	}
	switch {
	case code != "":
		fail(w, http.StatusBadRequest, code, "the sentence of Secrets Manager with "+in.SecretString)
	case d.cut[action] > 0:
		d.cut[action]--
		panic(http.ErrAbortHandler)
	default:
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_ = json.NewEncoder(w).Encode(out)
	}
}

// request has the members of all requests.
type request struct {
	SecretID, VersionStage               string
	ClientRequestToken, SecretString     string
	SecretBinary                         []byte
	VersionStages                        []string
	MoveToVersionID, RemoveFromVersionID string
}

func (d *double) putValue(in request) (out map[string]any, code string) {
	if len(in.ClientRequestToken) < 32 {
		d.t.Errorf("the token is %q", in.ClientRequestToken)
	}
	out = map[string]any{"ARN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/jwt-a1b2c3", "Name": "prod/jwt", "VersionId": in.ClientRequestToken, "CreatedDate": float64(start.Unix())}
	if in.SecretString != "" {
		out["SecretString"] = in.SecretString
	} else {
		out["SecretBinary"] = base64.StdEncoding.EncodeToString(in.SecretBinary)
	}
	if had, ok := d.versions[in.ClientRequestToken]; ok && had["SecretString"] != out["SecretString"] {
		return nil, "ResourceExistsException"
	}
	d.versions[in.ClientRequestToken] = out
	if len(in.VersionStages) == 0 {
		d.stages[previous] = d.stages[current]
		in.VersionStages = []string{current}
	}
	for _, stage := range in.VersionStages {
		d.stages[stage] = out
	}
	return out, ""
}

func (d *double) moveStage(in request) (out map[string]any, code string) {
	to, ok := d.versions[in.MoveToVersionID]
	if !ok || in.VersionStage != current {
		return nil, "ResourceNotFoundException"
	}
	if d.stages[current]["VersionId"] != in.RemoveFromVersionID {
		return nil, "InvalidParameterException"
	}
	d.stages[previous], d.stages[current] = d.stages[current], to
	return map[string]any{"ARN": to["ARN"], "Name": to["Name"]}, ""
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "Message": message})
}

func opened(t *testing.T, c Config) *store {
	t.Helper()
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := f.(*store)
	s.now = func() time.Time { return start }
	return s
}

func show(versions []secret.Version) string {
	var b strings.Builder
	for _, v := range versions {
		b.WriteString(v.Label + "=" + string(v.Value.Reveal()))
		if !v.RetireAt.IsZero() {
			b.WriteString(" until +" + v.RetireAt.Sub(start).String())
		}
		b.WriteString("; ")
	}
	return b.String()
}

func TestFetch(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*double, *Config)
		want   string
	}{
		"string": {func(*double, *Config) {}, "aws:prod/jwt#v2=two; "},
		"arn": {func(_ *double, c *Config) {
			c.SecretID, c.Region = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/jwt", ""
		}, "aws:prod/jwt#v2=two; "},
		"binary": {func(d *double, _ *Config) {
			s := d.stages[current]
			delete(s, "SecretString")
			s["SecretBinary"] = base64.StdEncoding.EncodeToString([]byte("\x01two"))
		}, "aws:prod/jwt#v2=\x01two; "},
		"document": {func(d *double, _ *Config) {
			d.put(current, "v2", `{"versions":[{"label":"b","value":"2"},{"label":"a","value":"1"}]}`, start)
		}, "b=2; a=1; "},
		"field":           {func(d *double, c *Config) { d.put(current, "v2", `{"user":"u","key":"2"}`, start); c.Field = "key" }, "aws:prod/jwt#v2=2; "},
		"overlap":         {func(_ *double, c *Config) { c.Overlap = unit.Duration(24 * time.Hour) }, "aws:prod/jwt#v2=two; aws:prod/jwt#v1=one until +23h0m0s; "},
		"overlap-is-over": {func(_ *double, c *Config) { c.Overlap = unit.Duration(time.Hour) }, "aws:prod/jwt#v2=two; "},
		"never-rotated":   {func(d *double, c *Config) { delete(d.stages, previous); c.Overlap = unit.Duration(24 * time.Hour) }, "aws:prod/jwt#v2=two; "},
		"previous-has-no-field": {func(d *double, c *Config) {
			d.put(current, "v2", `{"key":"2"}`, start)
			c.Field, c.Overlap = "key", unit.Duration(24*time.Hour)
		}, "aws:prod/jwt#v2=2; "},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.put(previous, "v1", "one", start.Add(-90*24*time.Hour))
			d.put(current, "v2", "two", start.Add(-time.Hour))
			c := Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url}
			tc.change(d, &c)
			got, err := opened(t, c).Fetch(t.Context())
			if err != nil || show(got) != tc.want {
				t.Errorf("got %s, %v, want %s", show(got), err, tc.want)
			}
		})
	}
}

func TestWhatIsRefused(t *testing.T) {
	code := func(status int, code string) func(*testing.T, *double, *Config) {
		return func(_ *testing.T, d *double, _ *Config) {
			d.answer = func(w http.ResponseWriter, r *http.Request) {
				fail(w, status, code, "the canonical request was x-amz-security-token:"+r.Header.Get("X-Amz-Security-Token"))
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(*testing.T, *double, *Config)
		want   string
	}{
		"no-secret":     {func(_ *testing.T, _ *double, c *Config) { c.SecretID = "prod/other" }, "reading AWSCURRENT of prod/other from AWS Secrets Manager: there is no such secret in this region and account"},
		"denied":        {code(400, "AccessDeniedException"), "AccessDeniedException: the credentials may not read it: allow them secretsmanager:GetSecretValue"},
		"key":           {code(400, "DecryptionFailure"), "kms:Decrypt"},
		"deleted":       {code(400, "InvalidRequestException"), "marked for deletion"},
		"signature":     {code(400, "InvalidSignatureException"), "the secret access key is wrong"},
		"session-ended": {code(400, "ExpiredTokenException"), "the session of the credentials has ended"},
		"failure":       {code(500, "InternalServiceError"), "the service has failed"},
		"unknown-code":  {code(400, "SomethingNew"), `it answered with the error "SomethingNew"`},
		"no-service": {func(_ *testing.T, d *double, _ *Config) {
			d.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>sesame")) }
		}, "what is no answer of Secrets Manager: check endpoint"},
		"large":    {func(_ *testing.T, d *double, _ *Config) { d.put(current, "v", strings.Repeat("sesame", 200000), start) }, "no answer of Secrets Manager"},
		"too-long": {func(_ *testing.T, d *double, _ *Config) { d.put(current, "v", strings.Repeat("sesame", 12000), start) }, "a secret is smaller"},
		"redirect": {func(_ *testing.T, d *double, _ *Config) {
			d.answer = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://elsewhere.example/", http.StatusTemporaryRedirect)
			}
		}, "answer"},
		"nobody-there": {func(_ *testing.T, _ *double, c *Config) { c.Endpoint = "http://127.0.0.1:1" }, "it cannot be reached, check region, endpoint and network"},
		"no-region":    {func(_ *testing.T, _ *double, c *Config) { c.Region = "" }, "give region, such as eu-west-1, or set AWS_REGION"},
		"no-credentials": {func(t *testing.T, _ *double, _ *Config) {
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		}, "the AWS SDK finds no credentials: set AWS_ACCESS_KEY_ID"},
		"broken-profile": {func(t *testing.T, _ *double, _ *Config) {
			t.Setenv("AWS_PROFILE", "sesame-profile")
			if err := os.WriteFile(os.Getenv("AWS_CONFIG_FILE"), []byte("[profile sesame"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "the settings of the AWS SDK cannot be used"},
		"no-object": {func(_ *testing.T, _ *double, c *Config) { c.Field = "key" }, "prod/jwt in AWS Secrets Manager: it is no JSON object"},
		"no-field": {func(_ *testing.T, d *double, c *Config) {
			d.put(current, "v", `{"a":"sesame"}`, start)
			c.Field = "key"
		}, `it has no field "key" but "a"`},
		"empty": {func(_ *testing.T, d *double, _ *Config) { d.put(current, "v", "", start) }, "it is empty"},
		"wrong-document": {func(_ *testing.T, d *double, _ *Config) {
			d.put(current, "v", `{"versions":[{"value":"sesame"},{}]}`, start)
		}, "has no label"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.put(current, "v2", "sesame", start)
			c := Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url}
			tc.change(t, d, &c)
			got, err := opened(t, c).Fetch(t.Context())
			if err == nil || len(got) != 0 || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %s, %v, want %q", show(got), err, tc.want)
			}
			if strings.Contains(err.Error(), "sesame") {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}

func TestNewAsksNobody(t *testing.T) {
	d := newDouble(t)
	d.put(current, "v2", "two", start)
	s := opened(t, Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url})
	if d.asked.Load() != 0 {
		t.Error("New asked the service")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	if _, err := s.Fetch(t.Context()); err == nil {
		t.Error("New had looked for credentials")
	}
}

func TestFetchObeysItsContext(t *testing.T) {
	d := newDouble(t)
	d.answer = func(_ http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 1<<10)) // until then the server does not see that the client is gone
		<-r.Context().Done()
	}
	s := opened(t, Config{SecretID: "prod/jwt", Region: "eu-west-1", Endpoint: d.url})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Fetch(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	s.turn <- struct{}{} // another fetch hangs
	if _, err := s.Fetch(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestValidate(t *testing.T) {
	for want, c := range map[string]Config{
		"secret_id must be the secret's name or ARN":           {},
		"secret_id must be the secret's name or ARN, such":     {SecretID: "a b"},
		"is no ARN of a secret, write arn:aws:secretsmanager:": {SecretID: "arn:aws:s3:::bucket"},
		"is not that of the ARN, \"eu-west-1\"":                {SecretID: "arn:aws:secretsmanager:eu-west-1:1:secret:a", Region: "us-east-1"},
		"must be one such as eu-west-1":                        {SecretID: "a", Region: "EU West"},
		"plain http is for this machine alone":                 {SecretID: "a", Endpoint: "http://example.com"},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
