(rule_set (selectors (class_selector (class_name) @name))) @definition.class
(rule_set (selectors (_ (class_selector (class_name) @name)))) @definition.class
(rule_set (selectors (_ (_ (class_selector (class_name) @name))))) @definition.class
(rule_set (selectors (id_selector (id_name) @name))) @definition.class
(rule_set (selectors (_ (id_selector (id_name) @name)))) @definition.class
(rule_set (selectors (_ (_ (id_selector (id_name) @name))))) @definition.class
(declaration (property_name) @name (#match? @name "^--")) @definition.variable
(keyframes_statement (keyframes_name) @name) @definition.function

; Uses
(comment) @comment

(import_statement (string_value (string_content) @import))
(import_statement (call_expression (arguments (string_value (string_content) @import))))

(class_name) @reference
(id_name) @reference
(call_expression (arguments (plain_value) @reference))
