; The outer three levels: what lies deeper is data.
(document (object (pair key: (string (string_content) @name)) @definition.field))
(document (object (pair value: (object (pair key: (string (string_content) @name)) @definition.field))))
(document (object (pair value: (object (pair value:
  (object (pair key: (string (string_content) @name)) @definition.field))))))
