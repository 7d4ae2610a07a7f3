package shared

import "time"

var noon = time.Date(2027, 6, 1, 12, 0, 0, 0, time.UTC).UnixNano()
